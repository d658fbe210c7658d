"""Rivals: one file and one row of registry.py for each; README.md says how one is added."""
