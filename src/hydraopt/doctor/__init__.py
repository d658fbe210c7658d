"""What is installed, and whether hydraopt works here."""
