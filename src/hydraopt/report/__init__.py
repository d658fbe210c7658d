"""Pages, pictures and cards of a bundle, for people."""
