"""Thin SVD, range finder, cutoffs, norms, clusters; the arrays' types."""
