"""Damage files, kill merges and misuse the server."""
