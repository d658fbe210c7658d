"""A hook of mkdocs: what the pages' HTML needs that Markdown cannot say."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["kept_together", "on_page_content", "without_roles"]

_CELL = re.compile(r"<td\b[^>]*>.*?</td>", re.DOTALL)
_ROLE = re.compile(r":(?:func|meth|class|mod):(?=<code>)")
_BREAK = re.compile(r"(?<=\d) (?=%)|(?<=\d,) (?=[-+]?\d)")


def kept_together(html: str) -> str:
    """``html`` with no line break between a number and its %, or inside [low, high], in cells."""
    return _CELL.sub(lambda cell: _BREAK.sub("\N{NO-BREAK SPACE}", cell.group()), html)


def without_roles(html: str) -> str:
    """``html`` without the roles of docstrings, as in :func:`merge`."""
    return _ROLE.sub("", html)


def on_page_content(html: str, **_: Any) -> str:
    """Called by mkdocs with each page's body."""
    return kept_together(without_roles(html))
