"""Read, write, split and pull bundles in several files."""
