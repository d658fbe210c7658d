"""Checks of what a manifest says; each raises BundleFormatError, with what was found."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final, NoReturn

from hydraopt.errors import BundleFormatError, explain

__all__ = [
    "as_tuple",
    "bad",
    "check",
    "natural",
    "one_of",
    "rising",
    "text",
    "text_map",
    "unique",
]

MAX_TEXT: Final = 4096


def bad(what: str, got: object = None, expected: object = None) -> NoReturn:
    """Raise BundleFormatError about the manifest; long values are cut."""
    shown = None if got is None else repr(got)[:80]
    raise BundleFormatError(explain(f"manifest: {what}", got=shown, expected=expected))


def check(fine: object, what: str, got: object = None, expected: object = None) -> None:
    """Raise BundleFormatError unless ``fine``."""
    if not fine:
        bad(what, got, expected)


def as_tuple(value: Any) -> tuple[Any, ...]:
    check(isinstance(value, list), "a value is not a list", value)
    return tuple(value)


def text(value: Any, what: str, empty: bool = False) -> None:
    fine = isinstance(value, str) and (empty or value) and len(value) <= MAX_TEXT
    check(fine, what, value, f"text of at most {MAX_TEXT} characters")
    # Control characters hide in terminals; a lone surrogate cannot be written as UTF-8.
    check(value.isprintable() or empty, what, value, "printable text")


def natural(value: Any, what: str, low: int, high: int) -> None:
    # bool is an int in Python but not in JSON.
    check(type(value) is int and low <= value <= high, what, value, f"{low} to {high}")


def one_of(value: Any, known: Any, what: str) -> None:
    check(isinstance(value, str) and value in known, what, value, ", ".join(known))


def rising(values: tuple[Any, ...], what: str) -> None:
    check(all(type(x) is int and x >= 0 for x in values), what, values, "whole numbers")
    up = all(a < b for a, b in pairwise(values))
    check(up, f"{what} do not rise", values)


def text_map(value: Any, what: str, kinds: type | tuple[type, ...]) -> None:
    right = isinstance(value, Mapping) and all(isinstance(x, str) for x in value)
    check(right and all(isinstance(x, kinds) for x in value.values()), what, value)


def unique(values: list[str], what: str) -> None:
    seen: set[str] = set()
    for value in values:
        check(value not in seen, f"{what} occur twice", value)
        seen.add(value)
