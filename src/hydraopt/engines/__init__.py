"""Run work in this process, in others, or on Ray."""
