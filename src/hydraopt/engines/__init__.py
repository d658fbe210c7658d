"""Workers: here, beside, on Ray."""
