"""Open, verify, split and change bundles: files that hold the tasks of many adapters."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
