"""Text of the reports: Markdown tables, and wrapped lines."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

__all__ = ["MISSING", "table", "wrapped"]

MISSING = "Not measured yet.\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def wrapped(text: str, width: int = 120) -> str:
    """Return one paragraph in lines of so many characters."""
    whole = " ".join(text.split())
    lines = textwrap.wrap(whole, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"
