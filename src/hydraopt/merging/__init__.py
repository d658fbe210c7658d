"""Merge adapters into a bundle within one limit, and change the tasks of a bundle."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
