"""LoHa and LoKr, whose modules are factors of a product: the norm of its dW, and what is not said.

The cosine of two dW's is no number of their factors' cosines, nor are spaces and parts of a factor
those of its dW.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.adapters import Adapter
from hydraopt.linalg.shapes import Array
from hydraopt.merging.align import MergeSet

__all__ = ["NOTE", "of_products", "squared_norms"]

NOTE: Final = (
    "modules ::w1 and ::w2 are factors of a product (LoHa, LoKr): cosines of A and B, parts and "
    "bytes are the factors' own, dW's are not compared, and |dW| of LoHa is an estimate"
)

_WHOLE: Final = re.compile(r"(?:base_model\.model\.)?(?P<path>.+)\.lokr_w(?P<number>[12])")
"""A factor of LoKr that is stored whole, which is no module."""


def of_products(pieces: MergeSet) -> NDArray[np.bool_]:
    """Which contents have factors of products, (contents,)."""
    marked = np.zeros(pieces.contents, np.bool_)
    for task in pieces.tasks:
        if task.content is not None:
            marked[task.content] |= any(pieces.modules[i].layout == "factor" for i in task.modules)
    return marked


def squared_norms(pieces: MergeSet, adapters: Sequence[Adapter], own: Array) -> Array:
    """|dW|^2 by module, (contents, modules): of a factor, its share of the product's.

    own: the same without the factors that are stored whole, which ``adapters`` have.
    """
    squares, by_name = own.copy(), {adapter.name: adapter for adapter in adapters}
    for content, name in enumerate(pieces.owners):
        whole = {
            (match["path"], int(match["number"]) - 1): tensor
            for key, tensor in by_name[name].extras.items()
            if (match := _WHOLE.fullmatch(key)) is not None
        }
        for i in np.flatnonzero(own[content]) if whole else ():
            module = pieces.modules[i]
            other = whole.get((module.stem, 1 - module.group))
            if module.layout == "factor" and other is not None:
                squares[content, i] *= np.sum(other.float64() ** 2)
    return squares
