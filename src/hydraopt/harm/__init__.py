"""Measure on prompts which answers a coded adapter changes, and train its parts to keep them."""
