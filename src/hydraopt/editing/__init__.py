"""Add, replace, remove and refresh tasks of a bundle, or make it smaller."""
