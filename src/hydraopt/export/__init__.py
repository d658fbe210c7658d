"""A bundle's tasks in the formats of other tools."""
