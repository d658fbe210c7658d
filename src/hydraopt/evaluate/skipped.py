"""Adapters whose logits are NaN or infinity; the reason is reported in place of their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydraopt.errors import NumericalError, explain

if TYPE_CHECKING:
    from hydraopt.evaluate.run import Scores

__all__ = ["NoNumbersError", "check_finite", "check_scores"]


class NoNumbersError(NumericalError):
    """Logits are NaN or infinity.

    sources: sources of the factors: the base, the original, or bundles.
    """

    def __init__(self, sources: Iterable[str], adapter: str | None = None) -> None:
        self.sources = list(sources)
        super().__init__(
            explain(
                "logits are no numbers",
                adapter=adapter,
                got=f"NaN or infinity of {', '.join(self.sources)}",
                do="Leave it out, or score what others made of it",
            )
        )


def check_finite(
    values: Mapping[str, Iterable[NDArray[np.float64]]], adapter: str | None = None
) -> None:
    """Raise NoNumbersError for the sources of which any number is NaN or infinity."""
    sources = [x for x, arrays in values.items() if not all(np.isfinite(y).all() for y in arrays)]
    if sources:
        raise NoNumbersError(sources, adapter)


def check_scores(scores: Mapping[str, Scores]) -> None:
    """Raise NoNumbersError for the sources whose own loss is not finite.

    If all losses are finite, it names the sources whose distance from the original is not.
    """
    check_finite({label: [one.loss] for label, one in scores.items()})
    distances = {label: (x.divergence, x.answer_divergence) for label, x in scores.items()}
    check_finite({label: [x for x in held if x is not None] for label, held in distances.items()})
