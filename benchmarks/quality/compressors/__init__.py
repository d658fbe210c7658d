"""Every rival as a compressor: what it is in one module a family, which rows are run in ``rows``."""
