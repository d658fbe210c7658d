"""Runs that damage files and kill merges."""
