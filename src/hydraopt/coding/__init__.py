"""Code quantised matrices as bits, and decode them."""
