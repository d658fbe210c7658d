"""One module or tensor at one price: plan, encode, measure."""
