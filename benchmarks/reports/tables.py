"""Text of the reports: Markdown tables, and wrapped lines."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["CHANGED", "MISSING", "changed", "recovered", "table", "titled", "wrapped"]

MISSING = "Not measured yet.\n"


CHANGED = "answers changed"
"""A column that a table has only where one of its rows was measured so."""


def changed(row: Mapping[str, Any]) -> str:
    """What stands in that column for a row of the headline."""
    share = row.get("changed_pct")
    return "-" if share is None else f"{share:.1f} %"


def recovered(row: Mapping[str, Any]) -> str:
    """The mean recovery of a row of the headline; none where no original lowers the loss."""
    share = row["mean_recovery_pct"]
    return "-" if share is None else f"{share:.2f} %"


def titled(row: Mapping[str, Any]) -> str:
    """A method and its setting, as tables name them."""
    return f"{row['method']} {row['setting']}".strip()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; without the column CHANGED where nothing but dashes would stand in it."""
    if CHANGED in head:
        at = list(head).index(CHANGED)
        if all(row[at] == "-" for row in rows):
            head, *rows = ([*line[:at], *line[at + 1 :]] for line in (head, *rows))
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def wrapped(text: str, width: int = 120) -> str:
    """One paragraph of lines of so many characters."""
    whole = " ".join(text.split())
    lines = textwrap.wrap(whole, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"
