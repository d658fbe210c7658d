"""Run a base model with factors on its modules, measure changed answers, and refit parts."""

import lazy_loader

from hydraopt.errors import require

require("torch")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
