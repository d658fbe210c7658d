"""Pictures; they read nothing but the dicts of hydraopt.inspect."""
