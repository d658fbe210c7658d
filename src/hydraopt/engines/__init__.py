"""Workers in this process, in others, or on Ray."""
