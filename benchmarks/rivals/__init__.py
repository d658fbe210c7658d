"""Every rival as a compressor, a module for each family; ``rows`` says which are run."""
