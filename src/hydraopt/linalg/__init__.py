"""Decompose, compare and cluster matrices."""
