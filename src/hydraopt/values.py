"""Values that users give: numbers as floats, and how a message shows any value, or many."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Sequence
from typing import Final

__all__ = ["closest", "counted", "listed", "one_line", "real", "shown"]

_MOST_SHOWN: Final = 80
_FEW: Final = 8
_ALIKE: Final = 3


def real(value: object) -> float | None:
    """Return a real number as float, infinite beyond float64; None for other things."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def shown(value: object) -> str:
    """Return a ``repr`` for a message, shortened if it is long."""
    try:
        text = str(value) if isinstance(value, numbers.Real) else repr(value)
    except ValueError:  # Python prints no int of more than some thousand digits.
        return "a number of very many digits"
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def counted(count: int, name: str) -> str:
    """Return a number of things: "1 task", "2,000 tasks"."""
    return f"{count:,} {name}{'s' * (count != 1)}"


def listed(names: Sequence[object], most: int = 3) -> str:
    """Return the first few of them and the number of the others: "a, b, c and 4 more"."""
    more = len(names) - most
    first = ", ".join(str(name) for name in names[:most])
    return first + (f" and {more:,} more" if more > 0 else "")


def one_line(text: str) -> str:
    """Return the text with line ends and other characters that do not print written out."""
    if text.isprintable():
        return text
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


def closest(wanted: str | Sequence[str], names: Collection[str]) -> str:
    """Describe which names were expected instead of unknown ones, for a message.

    All names if they are few; else those spelt most alike, and how many there are:
    "numbers-de, numbers-en (of 200)", or "one of 200 names" if none is alike.
    """
    if len(names) <= _FEW:
        return ", ".join(names)
    from difflib import get_close_matches  # only messages need it

    unknown = [wanted] if isinstance(wanted, str) else wanted[:_ALIKE]
    matches = [x for name in unknown for x in get_close_matches(name[:_MOST_SHOWN], names, _ALIKE)]
    alike = list(dict.fromkeys(matches))
    return f"{', '.join(alike)} (of {len(names):,})" if alike else f"one of {len(names):,} names"
