"""Merge many modules within a budget: align, search, write."""
