"""Entropy coding: trellis, range coder, streams, records."""
