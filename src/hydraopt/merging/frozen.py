"""What a task that comes later is coded against: a core that is there already, and its price.

A merge says in its recipe what a bit cost in the end. So a task that is added alone gets the bytes
that it would have been worth there, whatever else was added before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hydraopt.coding.dense import DenseRecord
from hydraopt.linalg.basis import Bases

__all__ = ["FrozenCore", "MiddlePrice"]

_DIGITS: Final = 6


@dataclass(frozen=True)
class FrozenCore:
    """What readers have before a task is coded, in step with the modules and tensors of a merge
    set.

    bases: of each module. commons: what tasks share of each coded tensor, None for nothing. strict:
    the bytes of a task must stand for all its numbers; else some are free, as in a file of its own.
    """

    bases: tuple[Bases, ...]
    commons: tuple[DenseRecord | None, ...]
    strict: bool = False


@dataclass(frozen=True)
class MiddlePrice:
    """What a merge came to. price: harm that a bit may cost to a task of the middle size and of
    importance 1. norm: that size, |dW| over all that is coded."""

    price: float
    norm: float

    def to_json(self) -> dict[str, float]:
        """As a recipe holds it."""
        return {name: float(f"{value:.{_DIGITS}g}") for name, value in vars(self).items()}

    @classmethod
    def in_recipe(cls, recipe: Mapping[str, Any]) -> MiddlePrice | None:
        """What a recipe says; None if it says nothing, or what makes no sense."""
        values = [recipe.get(name) for name in ("price", "norm")]
        for value in values:
            right = isinstance(value, float | int) and not isinstance(value, bool)
            if not (right and 0 < value < math.inf):  # type: ignore[operator]
                return None
        return cls(*map(float, values))  # type: ignore[arg-type]
