"""Read, write and verify a bundle in one file."""
