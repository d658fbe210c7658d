"""Thin SVD, range finder, norms, clusters."""
