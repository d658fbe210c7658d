"""Numbers of somebody's file, which may be none."""

from __future__ import annotations

import math
from typing import Any, Final

__all__ = ["counted", "finite"]

_MOST: Final = 1 << 53
"""Whole numbers from here on are not exact in the page's script."""


def finite(value: Any) -> float | None:
    """Return the number as a float; None if it is not a number, or too large for a float."""
    if isinstance(value, bool) or not isinstance(value, float | int):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON has integers of any length
        return None
    return number if math.isfinite(number) else None


def counted(value: Any) -> int | None:
    """Return the count; None if it is not a count."""
    return value if type(value) is int and 0 <= value < _MOST else None
