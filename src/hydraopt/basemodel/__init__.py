"""Attach factors to a base model; measure what changes."""
