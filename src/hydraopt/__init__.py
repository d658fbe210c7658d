"""hydraopt."""
