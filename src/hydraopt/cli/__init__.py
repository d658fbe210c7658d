"""Command line: one file per command, without logic."""
