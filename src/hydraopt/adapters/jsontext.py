"""JSON from files that nobody vouches for: headers, configs, manifests."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

__all__ = ["shown", "strict_json"]

_DEEPEST: Final = 64
"""Levels of nesting; what writes a value again recurses by as many."""


_HIDDEN: Final = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000"
    "\ud800-\udfff\ufeff\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
"""Characters that show nothing, or change how others are shown. A list, since what is printable
depends on the version of Unicode; part of the format."""


def shown(text: str) -> bool:
    """Return whether a text has no controls, direction marks or spaces other than U+0020."""
    return _HIDDEN.search(text) is None


def strict_json(text: bytes, *, unique: bool = True) -> Any:
    """Return the value of a JSON text in UTF-8.

    unique: whether a key that occurs twice in an object is refused; else the last one counts.
    Raises ValueError for what is no JSON, NaN and infinity, also as a number that is too large for
    a float, lone surrogates, which no file can hold as text, and deep nesting.
    """
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_no_duplicates if unique else None,
            parse_constant=_no_constant,
        )
    except RecursionError as error:
        # A text may be nothing but ten thousand opening brackets.
        raise ValueError("nested too deeply") from error
    _check(value, _DEEPEST)
    return value


def _check(value: Any, levels: int) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= x <= "\udfff" for x in value):
            raise ValueError(f"a lone surrogate in {value[:40]!r}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number is too large")
    elif isinstance(value, dict | list):
        if not levels:
            raise ValueError("nested too deeply")
        for inner in value:
            _check(inner, levels - 1)
        if isinstance(value, dict):
            for inner in value.values():
                _check(inner, levels - 1)


def _no_duplicates(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        raise ValueError("a key occurs twice")
    return result


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
