"""Hooks of mkdocs: the options of commands, and HTML that Markdown cannot express."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

__all__ = ["kept_together", "listed", "on_page_content", "on_page_markdown", "without_roles"]

_CELL = re.compile(r"<td\b[^>]*>.*?</td>", re.DOTALL)
# A lower-case word, or a letter for a matrix: "Default:" begins a sentence.
_NAME = r"(?:[a-z_]\w*|[A-Z])"
_NAMES = rf"{_NAME}(?:, {_NAME})*(?: \([^()]*\))?:\s"
_ARGUMENTS = re.compile(rf"<p>((?:{_NAMES})[^<]*(?:<(?!/p>)[^<]*)*)</p>")
_NEXT = re.compile(rf"(?<=[.)])\s+(?={_NAMES})")
_ROLE = re.compile(r":(?:func|meth|class|mod):(?=<code>)")
_BREAK = re.compile(r"(?<=\d) (?=%)|(?<=\d,) (?=[-+]?\d)")


def kept_together(html: str) -> str:
    """``html`` with no line break between a number and its %, or inside [low, high], in cells."""
    return _CELL.sub(lambda cell: _BREAK.sub("\N{NO-BREAK SPACE}", cell.group()), html)


def without_roles(html: str) -> str:
    """``html`` without the roles of docstrings, as in :func:`merge`."""
    return _ROLE.sub("", html)


def listed(html: str) -> str:
    """``html`` where a paragraph "one: text. two: text." is a list with an item for each name."""

    def items(paragraph: re.Match[str]) -> str:
        texts = _NEXT.split(paragraph.group(1))
        marked = (re.sub(r"^([^:]+):", r"<code>\1</code>:", text, count=1) for text in texts)
        return f"<ul>{''.join(f'<li>{text}</li>' for text in marked)}</ul>"

    return _ARGUMENTS.sub(items, html)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text of a page, with a section for each command on that of the command line.

    mkdocs calls it. Raises ImportError if hydraopt is not installed.
    """
    if page.file.src_uri != "reference/cli.md":
        return markdown
    root = str(Path(__file__).resolve().parents[1])
    if root not in sys.path:  # the command mkdocs does not search the folder in which it runs
        sys.path.append(root)
    from tools import cli_reference

    return f"{markdown}\n\n{cli_reference.sections()}"


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Called by mkdocs with each page's body."""
    if page.file.src_uri == "reference/python.md":
        html = listed(html)
    return kept_together(without_roles(html))
