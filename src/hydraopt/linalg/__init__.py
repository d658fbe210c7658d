"""Matrices of low rank: shapes, decompositions, cutoffs, norms. Nothing of adapters or files."""
