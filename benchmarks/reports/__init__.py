"""Read result files and write tables and pictures; nothing is measured here."""
