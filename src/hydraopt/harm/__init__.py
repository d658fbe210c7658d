"""Measure which answers a merge changes, and reduce them."""
