"""Linear algebra: thin SVD, range finder, norms, clusters."""
