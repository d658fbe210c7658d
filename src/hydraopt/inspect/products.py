"""LoHa and LoKr, whose modules are factors of a product: measures that do not apply to them.

The cosine of two dW's does not follow from their factors' cosines, and the spaces and parts of a
factor are not those of its dW.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.merging.align import MergeSet
from hydraopt.notes import Note

__all__ = ["NOTE", "of_products"]

NOTE: Final = Note(
    "product_factors",
    "modules ::w1 and ::w2 are factors of a product (LoHa, LoKr): cosines of A and B, parts and "
    "bytes are the factors' own, dW's are not compared, and |dW| of LoHa is an estimate",
)


def of_products(pieces: MergeSet) -> NDArray[np.bool_]:
    """Mark the contents that have factors of products; shape (contents,)."""
    marked = np.zeros(pieces.contents, np.bool_)
    for task in pieces.tasks:
        if task.content is not None:
            marked[task.content] |= any(pieces.modules[i].layout == "factor" for i in task.modules)
    return marked
