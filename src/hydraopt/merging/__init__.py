"""Many modules and a budget: align, search, merge, shrink, combine."""
