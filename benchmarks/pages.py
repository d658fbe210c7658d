"""Where reports write: the marked blocks of documents, and pictures. Nothing else names a document.

What stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` of a page is made by the report of that
name. Who moves a document or a block changes BLOCKS, and a moved picture folder PICTURES.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.common import ROOT

__all__ = [
    "ABOUT",
    "BLOCKS",
    "BOARD",
    "BOARD_PICTURES",
    "OPTIONAL",
    "PICTURES",
    "Sections",
    "filled",
    "is_marked",
    "rewrite",
    "shown",
]

Sections = Mapping[str, Callable[[], str]]
"""By name of a block, what makes its text; a picture is linked as ``picture:FILE``."""

_DOCS = ROOT / "docs"
_README, _EVIDENCE = ROOT / "README.md", _DOCS / "evidence"
PICTURES = _DOCS / "pictures"
BLOCKS: Mapping[str, Path] = {
    "evidence in short": _README,
    "evidence": _EVIDENCE / "index.md",
    "rivals in short": _EVIDENCE / "index.md",
    "methods": _EVIDENCE / "index.md",
    "default": _EVIDENCE / "index.md",
    "curves": _EVIDENCE / "tables.md",
    "chance": _EVIDENCE / "tables.md",
    "tasks": _EVIDENCE / "tables.md",
    "fairness": _EVIDENCE / "tables.md",
    "alike": _EVIDENCE / "tables.md",
    "ways beside": _EVIDENCE / "tables.md",
    "shared out": _EVIDENCE / "tables.md",
    "foretold": _EVIDENCE / "tables.md",
    "limits kept": _EVIDENCE / "tables.md",
    "measures": _EVIDENCE / "tables.md",
    "weights": _EVIDENCE / "tables.md",
    "growth": _EVIDENCE / "tables.md",
    "results": _EVIDENCE / "tables.md",
    "map": _EVIDENCE / "rivals.md",
    "verdict": _EVIDENCE / "rivals.md",
    "prompted": _EVIDENCE / "rivals.md",
    "bd-rate": _EVIDENCE / "rivals.md",
    "rivals": _EVIDENCE / "rivals.md",
    "speed": _EVIDENCE / "speed.md",
    "runtime": _EVIDENCE / "speed.md",
    "scaling": _EVIDENCE / "scaling.md",
    "revisions": _EVIDENCE / "scaling.md",
    "formats": _EVIDENCE / "format.md",
    "apart": _EVIDENCE / "format.md",
    "chunks": _EVIDENCE / "format.md",
    "shared chunks": _EVIDENCE / "format.md",
    "readers": _EVIDENCE / "format.md",
    "core use": _EVIDENCE / "format.md",
    "remote": _EVIDENCE / "format.md",
    "heads": _EVIDENCE / "kinds.md",
    "real": _EVIDENCE / "kinds.md",
    "embedding": _EVIDENCE / "kinds.md",
    "trained tuners": _EVIDENCE / "kinds.md",
    "tuners": _DOCS / "reference" / "tuners.md",
    "people": _EVIDENCE / "people.md",
    "fleet": _DOCS / "howto" / "fleet.md",
    "folders": _DOCS / "howto" / "collections.md",
}
"""The document of every block."""
OPTIONAL = frozenset({"evidence in short"})
"""Blocks that need not be there."""
ABOUT: Mapping[str, Path] = {
    "evidence": _EVIDENCE / "index.md",
    "methods": _DOCS / "reference" / "methods.md",
}
"""Documents that reports refer to, by topic."""
BOARD = ROOT / "benchmarks" / "LEADERBOARD.md"
BOARD_PICTURES = ROOT / "benchmarks" / "pictures"
"""The leaderboard is a page of its own, whole, with its own pictures."""

_PICTURE = re.compile(r"\]\(picture:([^)]+)\)")


def shown(path: Path) -> str:
    """A path as text names it."""
    return path.relative_to(ROOT).as_posix()


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->\n", f"<!-- /{name} -->"


def is_marked(name: str) -> bool:
    """Has the page of this block its marks?"""
    text = BLOCKS[name].read_text(encoding="utf-8")
    return all(mark in text for mark in _marks(name))


def filled(text: str, page: Path, sections: Sections) -> str:
    """The page's text with what stands between the marks of these sections made anew."""
    folder = os.path.relpath(PICTURES, page.parent)
    for name, make in sections.items():
        start, end = _marks(name)
        if start in text:
            before, rest = text.split(start, 1)
            made = _PICTURE.sub(rf"]({folder}/\1)", make())
            text = before + start + made + end + rest.split(end, 1)[1]
    return text


def rewrite(sections: Sections, check: bool) -> None:
    """Fill the blocks of these names in their pages.

    check: change nothing, and raise SystemExit where a page would. Raises SystemExit as well where
    a page has no marks for a block that is not optional.
    """
    for page in dict.fromkeys(BLOCKS[name] for name in sections):
        mine = {name: make for name, make in sections.items() if BLOCKS[name] == page}
        lost = sorted(x for x in mine if x not in OPTIONAL and not is_marked(x))
        if lost:
            raise SystemExit(f"{shown(page)} has no marks for: {', '.join(lost)}")
        text = page.read_text(encoding="utf-8")
        new = filled(text, page, mine)
        if not check:
            page.write_text(new, encoding="utf-8")
        elif new != text:
            raise SystemExit(
                f"{shown(page)} differs from the result files: run python -m benchmarks.reports"
            )
