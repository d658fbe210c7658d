"""Run a base model with factors attached to its modules."""
