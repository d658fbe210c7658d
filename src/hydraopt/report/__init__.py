"""Pages, pictures and cards for people: what a bundle costs, and what it does to its tasks."""
