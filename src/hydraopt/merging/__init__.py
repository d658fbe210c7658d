"""Merge adapters into a bundle within a budget."""
