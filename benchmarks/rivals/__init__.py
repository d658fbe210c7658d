"""Rivals: one file and one row of registry.py for each (benchmarks/README.md, "A new rival")."""
