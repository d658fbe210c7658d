"""Write reports: the marked blocks of pages, tables as CSV files, and pictures.

The text between ``<!-- NAME -->`` and ``<!-- /NAME -->`` of a page is made by the report that has
a block of this name. To move a block to another page, change BLOCKS.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.common import ROOT

__all__ = [
    "BLOCKS",
    "PICTURES",
    "TABLES",
    "Sections",
    "Tables",
    "filled",
    "is_marked",
    "rewrite",
    "shown",
    "write_tables",
]

Sections = Mapping[str, Callable[[], str]]
"""By name of a block, a function that makes its text; a picture is linked as ``picture:FILE`` and
a table as ``table:FILE``."""
Table = tuple[Sequence[str], Sequence[Sequence[object]]]
"""(names of the columns, rows)."""
Tables = Mapping[str, Callable[[], Table]]
"""By name of a CSV file in TABLES, a function that makes its contents."""

_DOCS = ROOT / "docs"
_README, _EVIDENCE = ROOT / "README.md", _DOCS / "evidence"
PICTURES = _DOCS / "pictures"
TABLES = _EVIDENCE / "data"
BLOCKS: Mapping[str, Path] = {
    "evidence in short": _README,
    "by base": _EVIDENCE / "index.md",
    "with prompts": _EVIDENCE / "index.md",
    "by application": _EVIDENCE / "index.md",
    "noise": _EVIDENCE / "index.md",
    "limits kept": _EVIDENCE / "index.md",
    "default": _EVIDENCE / "index.md",
    "growth": _EVIDENCE / "index.md",
    "equal kl": _EVIDENCE / "rivals.md",
    "rivals": _EVIDENCE / "rivals.md",
    "rivals in a picture": _EVIDENCE / "rivals.md",
    "real": _EVIDENCE / "kinds.md",
    "tuners": _DOCS / "reference" / "tuners.md",
}
"""The document of every block."""
_LINK = re.compile(r"\]\((picture|table):([^)]+)\)")


def shown(path: Path) -> str:
    """Return a path as text names it."""
    return path.relative_to(ROOT).as_posix()


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->\n", f"<!-- /{name} -->"


def is_marked(name: str) -> bool:
    """Return whether the page of this block has its marks."""
    text = BLOCKS[name].read_text(encoding="utf-8")
    return all(mark in text for mark in _marks(name))


def filled(text: str, page: Path, sections: Sections) -> str:
    """Return the page's text with what stands between the marks of these sections made anew."""
    folders = {
        kind: os.path.relpath(folder, page.parent)
        for kind, folder in (("picture", PICTURES), ("table", TABLES))
    }
    for name, make in sections.items():
        start, end = _marks(name)
        if start in text:
            before, rest = text.split(start, 1)
            made = _LINK.sub(lambda found: f"]({folders[found[1]]}/{found[2]})", make())
            text = before + start + made + end + rest.split(end, 1)[1]
    return text


def rewrite(sections: Sections, check: bool) -> None:
    """Fill the blocks of these names in their pages.

    check: change nothing, and raise SystemExit where a page would. Raises SystemExit as well where
    a page has no marks for a block.
    """
    for page in dict.fromkeys(BLOCKS[name] for name in sections):
        mine = {name: make for name, make in sections.items() if BLOCKS[name] == page}
        lost = sorted(x for x in mine if not is_marked(x))
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


def write_tables(tables: Tables, check: bool) -> None:
    """Write the CSV files of these names.

    check: change nothing, and raise SystemExit if a file differs or is missing.
    """
    for name, make in tables.items():
        path, text = TABLES / name, io.StringIO()
        head, rows = make()
        csv.writer(text, lineterminator="\n").writerows([head, *rows])
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.getvalue(), encoding="utf-8", newline="")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text.getvalue():
            raise SystemExit(
                f"{shown(path)} differs from the result files: run python -m benchmarks.reports"
            )
