"""One module at one price: core, measure, curve, plan, encode."""
