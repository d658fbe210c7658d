"""What the scripts of this folder share: a page is rewritten, or held against what it should be."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["ROOT", "between", "settle"]

ROOT = Path(__file__).resolve().parents[1]


def between(page: str, name: str, block: str) -> str:
    """``page`` with ``block`` between the marks ``<!-- name -->`` and ``<!-- /name -->``.

    Raises ValueError if the page does not have each mark once.
    """
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    if page.count(opening) != 1 or page.count(closing) != 1:
        raise ValueError(f"the page needs {opening} and {closing}, once each")
    head, _, rest = page.partition(opening)
    return f"{head}{opening}\n{block.strip()}\n{closing}{rest.partition(closing)[2]}"


def settle(path: Path, text: str, command: str, check: bool) -> None:
    """Write ``text`` to ``path``; with ``check`` exit with a message if it is not there already."""
    if check:
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(ROOT)} differs: run {command}")
        return
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")
