"""Pages, pictures and model cards: what a bundle does, for people."""
