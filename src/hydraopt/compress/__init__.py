"""Plan, encode and measure one module or tensor at one price."""
