"""An existing core against which later tasks are coded, and the price of a bit in it.

A merge records in its recipe what a bit finally cost. A task that is added alone therefore gets
the bytes that it would have been worth in that merge, whatever else was added before.
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
    """Data that readers have before a task is coded, in step with the modules and tensors of a set.

    bases: the bases of each module.
    commons: the shared record of each coded tensor; None if its tasks share nothing.
    strict: whether the bytes of a task must account for all its numbers. Otherwise some numbers are
        free, as in a file of its own.
    """

    bases: tuple[Bases, ...]
    commons: tuple[DenseRecord | None, ...]
    strict: bool = False


@dataclass(frozen=True)
class MiddlePrice:
    """Final price of a merge.

    price: cost of error that a bit is worth to a task of the middle size and of importance 1.
    norm: the middle size, |dW| over everything that is coded.
    """

    price: float
    norm: float

    def to_json(self) -> dict[str, float]:
        """Return the values as stored in a recipe."""
        return {name: float(f"{value:.{_DIGITS}g}") for name, value in vars(self).items()}

    @classmethod
    def in_recipe(cls, recipe: Mapping[str, Any]) -> MiddlePrice | None:
        """Read the values from a recipe; return None if they are missing or invalid."""
        values = [recipe.get(name) for name in ("price", "norm")]
        for value in values:
            right = isinstance(value, float | int) and not isinstance(value, bool)
            if not (right and 0 < value < math.inf):  # type: ignore[operator]
                return None
        return cls(*map(float, values))  # type: ignore[arg-type]
