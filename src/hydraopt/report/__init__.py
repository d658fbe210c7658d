"""Pictures of what inspect says; nothing else is read."""
