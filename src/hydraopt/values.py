"""Values that users give: numbers as floats, and how a message shows any value, or many."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Final

__all__ = ["counted", "listed", "real", "shown"]

_MOST_SHOWN: Final = 80


def real(value: object) -> float | None:
    """A real number as float, infinite where float64 does not hold it; None for other things."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def shown(value: object) -> str:
    """``repr`` for a message, however long it is."""
    try:
        text = str(value) if isinstance(value, numbers.Real) else repr(value)
    except ValueError:  # Python prints no int of more than some thousand digits.
        return "a number of very many digits"
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def counted(count: int, name: str) -> str:
    """A number of things: "1 task", "2,000 tasks"."""
    return f"{count:,} {name}{'s' * (count != 1)}"


def listed(names: Sequence[object], most: int = 3) -> str:
    """The first few of them, and how many more there are: "a, b, c and 4 more"."""
    more = len(names) - most
    first = ", ".join(str(name) for name in names[:most])
    return first + (f" and {more:,} more" if more > 0 else "")
