"""A collection that lives: tasks come and go, and no byte of any other task changes."""
