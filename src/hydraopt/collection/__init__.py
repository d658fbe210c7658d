"""Tasks come and go, and no byte of any other changes."""
