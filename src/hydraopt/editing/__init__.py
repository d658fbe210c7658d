"""Change the tasks of an existing bundle: add, replace, remove, rename, refresh."""
