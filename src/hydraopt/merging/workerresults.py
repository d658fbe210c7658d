"""Results of workers for an item, read from what is kept of them in files.

A kept result that makes no sense raises ValueError, and is made again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from hydraopt.coding.script import SHARED, apart
from hydraopt.values import real, shown

__all__ = ["Made", "read_bits", "read_energies", "read_made"]

Energies = tuple[list[int], list[float], int]


@dataclass(frozen=True)
class Made:
    """Result of encoding an item, without its records.

    bits: the planner's estimate.
    errors, energies: squared norms, in the order of ``contents``.
    forms: number of records by form.
    shares: whether the item's shared record holds anything.
    numbers: count of numbers that all its records stand for.
    """

    bits: float
    contents: tuple[int, ...]
    errors: tuple[float, ...]
    energies: tuple[float, ...]
    forms: Mapping[str, int]
    shares: bool
    numbers: int


def read_energies(head: Any, known: Collection[int]) -> Energies:
    """Read (contents, squared norms, blocks) from JSON. known: contents that the item has."""
    if not isinstance(head, list | tuple) or len(head) != 3:
        _refuse(head)
    contents = _contents(head[0], known)
    return list(contents), list(_floats(head[1], len(contents))), _count(head[2], 1)


def read_bits(head: Any) -> float:
    """Read the expected bits from JSON."""
    return _float(head)


def read_made(head: Any, scripts: bytes, known: Collection[int]) -> Made:
    """Read the result of an item from JSON and validate its scripts.

    known: contents that the item has.
    """
    if not isinstance(head, dict) or set(head) != {x.name for x in fields(Made)}:
        _refuse(head)
    contents, forms, shares = _contents(head["contents"], known), head["forms"], head["shares"]
    if not isinstance(forms, dict) or not isinstance(shares, bool):
        _refuse(head)
    for whose, _ in apart(scripts):
        if whose != SHARED and whose not in contents:
            _refuse(whose)
    return Made(
        _float(head["bits"]),
        contents,
        _floats(head["errors"], len(contents)),
        _floats(head["energies"], len(contents)),
        {form: _count(count) for form, count in forms.items()},
        shares,
        _count(head["numbers"]),
    )


def _contents(value: Any, known: Collection[int]) -> tuple[int, ...]:
    contents = tuple(_count(x) for x in _sequence(value))
    if len(set(contents)) < len(contents) or not set(contents) <= set(known):
        _refuse(value)
    return contents


def _floats(value: Any, count: int) -> tuple[float, ...]:
    values = _sequence(value)
    if len(values) != count:
        _refuse(value)
    return tuple(map(_float, values))


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else _refuse(value)


def _float(value: Any) -> float:
    number = real(value)
    return number if number is not None and math.isfinite(number) else _refuse(value)


def _count(value: Any, least: int = 0) -> int:
    return value if type(value) is int and value >= least else _refuse(value)


def _refuse(value: object) -> NoReturn:
    raise ValueError(f"a kept result makes no sense: {shown(value)}")
