"""Encode one module or one tensor at a given price."""
