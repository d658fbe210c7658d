"""Pages, pictures and model cards of what a bundle does."""
