"""Add, replace, remove and refresh tasks of a bundle."""
