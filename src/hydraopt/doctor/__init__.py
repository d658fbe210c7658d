"""What is installed, and if it works."""
