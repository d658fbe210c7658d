"""Regular expressions out of configs, matched for a limited time.

``re`` backtracks without end on expressions such as ``(a+)+X``; ``regex`` reads the same language
and stops. What ``re`` would not compile is broken, because PEFT uses ``re``.
"""

from __future__ import annotations

import functools
import math
import re
import time
from typing import Any, Final

__all__ = ["Patience", "compiled", "ends_with", "match", "path_parts"]

_LONGEST: Final = 1 << 16
_MOST_REPEATS: Final = 10**6
"""Counted repeats multiplied, since an expression is as large as that once it is compiled."""
_COUNTED: Final = re.compile(r"\{(?:\d*,)?(\d+)\}")
_SECONDS: Final = 1.0
_PLAIN: Final = re.compile(r"[^()\[\]{}?*+|^$\\\n]*")


class Patience:
    """Seconds that all matches of one config together may still take.

    A match of an ordinary expression takes a microsecond.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self.left = seconds


@functools.lru_cache(maxsize=1 << 14)
def compiled(pattern: str) -> Any:
    """Return the expression, compiled.

    Raises ValueError for a broken one, for 64 k characters and more, and for one that stands for a
    million characters and more.
    """
    import regex  # most configs have nothing to match

    if len(pattern) > _LONGEST:
        raise ValueError(f"an expression of {len(pattern)} characters")
    repeats = math.prod(max(int(count), 1) for count in _COUNTED.findall(pattern))
    if repeats > _MOST_REPEATS:
        raise ValueError("an expression that counts repeats to more than a million in all")
    try:
        re.compile(pattern)
        return regex.compile(pattern)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def match(pattern: str, path: str, patience: Patience, whole: bool = False) -> Any:
    """Return a match from the start, of the ``whole`` path if so wished, or None.

    Raises ValueError for a broken expression, TimeoutError when the patience is at its end.
    """
    expression = compiled(pattern)
    if patience.left <= 0:
        raise TimeoutError("no patience left")
    started = time.monotonic()
    try:
        seek = expression.fullmatch if whole else expression.match
        return seek(path, timeout=patience.left)
    finally:
        patience.left -= time.monotonic() - started


@functools.lru_cache(maxsize=1 << 14)
def path_parts(pattern: str) -> tuple[str, ...] | None:
    """Return the parts of an expression that is a plain path, else None.

    In a plain path every character but the dot matches itself alone, so it needs no compiling.
    """
    if len(pattern) > _LONGEST or not _PLAIN.fullmatch(pattern):
        return None
    return tuple(pattern.split("."))


def ends_with(path: str, pattern: str) -> bool | None:
    """Return whether ``(.*\\.)?(PATTERN)$`` matches the path; None if :func:`path_parts` is.

    The dots of a pattern match any character, as those of expressions do.
    """
    parts = path_parts(pattern)
    if parts is None or "\n" in path:
        return None
    if not path.endswith(parts[-1]):
        return False
    place = len(path) - len(pattern)
    if place < 0 or (place and path[place - 1] != "."):
        return False
    for part in parts:
        if not path.startswith(part, place):
            return False
        place += len(part) + 1
    return True
