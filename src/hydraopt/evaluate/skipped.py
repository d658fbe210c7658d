"""Messages for adapters that cannot be scored, reported in place of their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydraopt.errors import NumericalError, explain

if TYPE_CHECKING:
    from hydraopt.evaluate.run import Scores

__all__ = ["NoNumbersError", "check_losses", "check_numbers", "no_numbers", "of_scores"]

Numbers = NDArray[np.float64]


class NoNumbersError(NumericalError):
    """Logits are NaN or infinity. labels: of which sources of factors, or among which."""

    def __init__(self, labels: Iterable[str], adapter: str | None = None) -> None:
        self.labels = list(labels)
        super().__init__(no_numbers(adapter, self.labels))


def no_numbers(adapter: str | None, labels: Sequence[str]) -> str:
    """Return the message for an adapter whose factors from these sources give non-finite logits.

    labels: the base, the original, or bundles.
    """
    return explain(
        "logits are no numbers",
        adapter=adapter,
        got=f"NaN or infinity of {', '.join(labels)}",
        do="Leave it out, or score what others made of it",
    )


def check_numbers(adapter: str, label: str, values: Iterable[Numbers]) -> None:
    """Raise NoNumbersError for the source ``label`` if any of the numbers is NaN or infinity."""
    if _not_finite(values):
        raise NoNumbersError([label], adapter)


def check_losses(losses: Mapping[str, Numbers]) -> None:
    """Raise NoNumbersError for the sources whose losses are NaN or infinity."""
    labels = [label for label, loss in losses.items() if _not_finite([loss])]
    if labels:
        raise NoNumbersError(labels)


def of_scores(adapter: str, scores: Mapping[str, Scores]) -> str | None:
    """Return the reason why an adapter has no result; None where all sources gave finite numbers.

    It names the sources whose own loss is not finite; if all losses are finite, the sources whose
    distance from the original is not.
    """
    try:
        check_losses({label: one.loss for label, one in scores.items()})
    except NoNumbersError as error:
        return no_numbers(adapter, error.labels)
    labels = [
        label
        for label, one in scores.items()
        if _not_finite(x for x in (one.divergence, one.answer_divergence) if x is not None)
    ]
    return no_numbers(adapter, labels) if labels else None


def _not_finite(values: Iterable[Numbers]) -> bool:
    return not all(np.isfinite(x).all() for x in values)
