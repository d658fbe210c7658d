"""Check what is installed and whether it works."""
