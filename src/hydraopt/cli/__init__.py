"""Parse the options of commands and print the results."""
