"""Score the tasks of a bundle against the originals.

Everything here needs the extra ``eval``; nothing outside this folder does.
"""

from hydraopt.extras import require

require("sacrebleu", "rouge_score", "nltk", "torch", "transformers")
