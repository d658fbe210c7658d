"""Effect of a bundle on people, from a result: probes, as rows.

A result is a file from anybody, so a row is left out if it contains an invalid number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from hydraopt.report.model import PeopleRow
from hydraopt.report.numbers import counted, finite

__all__ = ["CLEAR", "MOST_PEOPLE", "people_rows"]

MOST_PEOPLE: Final = 2000
"""Maximum number of rows on a page."""
CLEAR: Final = 0.05
"""Corrected p below which a change has a direction."""
_ALL: Final = "all"
_WRONG: Final = (KeyError, TypeError, ValueError, AttributeError)


def people_rows(task: Mapping[str, Any], mine: str) -> Iterator[PeopleRow]:
    """Yield the rows of one task of a result: each probe as a whole, then its groups.

    mine: label of the bundle in the result.
    """
    for probe, by_set in _items(task.get("probes")):
        own = by_set.get(mine) if isinstance(by_set, dict) else None
        for group, said in sorted(_items(own), key=lambda x: (x[0] != _ALL, x[0])):
            with suppress(*_WRONG):
                yield _people_row(task, probe, group, said, by_set.get("original"))


def _people_row(
    task: Mapping[str, Any],
    probe: str,
    group: str,
    said: Mapping[str, Any],
    before: Mapping[str, Any] | None,
) -> PeopleRow:
    change, now = said["change"], said["preference"]
    return PeopleRow(
        task=str(task["adapter"]),
        probe=probe,
        group="" if group == _ALL else group,
        items=_count(said["items"]),
        before=None if before is None else _share(before[group]["preference"]["pct"]),
        now=_share(now["pct"]),
        low=_share(now["low"]),
        high=_share(now["high"]),
        flips=_count(change["flips"]),
        towards=_count(change["towards"]),
        away=_count(change["away"]),
        p=_number(change["p_holm"]),
    )


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _number(value: Any) -> float:
    number = finite(value)
    if number is None:
        raise ValueError
    return number


def _share(percent: Any) -> float:
    return _number(percent) / 100


def _count(value: Any) -> int:
    count = counted(value)
    if count is None:
        raise ValueError
    return count
