"""Score the tasks of a bundle against the original adapters."""

import lazy_loader

from hydraopt.errors import require

require("sacrebleu", "rouge_score", "nltk", "torch", "transformers")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
