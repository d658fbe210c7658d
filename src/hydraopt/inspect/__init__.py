"""Report what adapters share, where the bytes of a bundle are, and whether hydraopt works here."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
