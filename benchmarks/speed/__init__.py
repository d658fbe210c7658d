"""Runs that time merging, reading, the runtime and the server."""
