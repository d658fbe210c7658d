"""Score adapters after a merge, and the same adapters after compression by rivals."""
