"""Runs that score what merging does to adapters, and what rivals do to the same ones."""
