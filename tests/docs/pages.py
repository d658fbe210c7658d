"""What the tests of the documents share: which pages there are, and their prose."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SITE = sorted(DOCS.rglob("*.md"))
FRONT = [
    ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY", "RELEASE")
]
PAGES = [*FRONT, *SITE]

_BLOCK = re.compile(r"<!-- (?!/)([^>]+?) -->\n.*?<!-- /\1 -->", re.DOTALL)
_FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.) ")


def name_of(path: Path) -> str:
    """The path as people write it."""
    return path.relative_to(ROOT).as_posix()


def written(text: str) -> str:
    """The page without what scripts made (between marks) and without code."""
    return _FENCE.sub("", _BLOCK.sub("", text))


def paragraphs(text: str) -> list[str]:
    """Prose alone, a paragraph or an item of a list each: no headings, tables, pictures, code."""
    found, open_ = [], False
    for line in written(text).splitlines():
        bare = line.strip()
        if not bare or bare.startswith(("#", "|", "!", "<!--", ":::")):
            open_ = False
        elif _ITEM.match(line) or not open_:
            found.append(_ITEM.sub("", line, count=1).strip())
            open_ = True
        else:
            found[-1] += " " + bare
    return found
