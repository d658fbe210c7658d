"""Measure the coder alone: bytes and seconds of the same integers."""
