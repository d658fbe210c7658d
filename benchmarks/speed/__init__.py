"""Time merging, reading, the runtime and the server."""
