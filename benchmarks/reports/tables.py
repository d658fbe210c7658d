"""Text of the reports: Markdown tables, and wrapped lines."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

__all__ = ["MISSING", "table", "wrapped"]

MISSING = "Not measured yet.\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def wrapped(text: str) -> str:
    """One paragraph of lines of 120 characters."""
    whole = " ".join(text.split())
    lines = textwrap.wrap(whole, 120, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"
