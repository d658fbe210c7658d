"""Tasks come and go; no byte of any other changes."""
