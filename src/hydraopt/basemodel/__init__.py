"""Run a base model with factors of adapters attached to its modules."""
