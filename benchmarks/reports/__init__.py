"""What reads result files and writes tables and pictures; nothing here measures anything."""
