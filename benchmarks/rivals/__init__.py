"""Rivals: one file and one row of registry.py for each; benchmarks/README.md says how one is added."""
