"""HTML reports, pictures and model cards."""
