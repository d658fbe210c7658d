"""Two answers side by side: which pieces only one of them has."""

from __future__ import annotations

import difflib
import re
from typing import Final

__all__ = ["marked"]

_PIECE: Final = re.compile(
    # Scripts without spaces are compared letter by letter, all others word by word.
    r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u0e00-\u0eff\u3040-\u30ff"
    r"\u3400-\u9fff\uac00-\ud7af]+|\s+|.",
    re.DOTALL,
)
_MOST: Final = 600
"""Maximum number of pieces that are compared; the rest of a longer answer counts as different."""


def marked(original: str, bundle: str) -> tuple[tuple[str, str], ...]:
    """Split the answers into pieces (kind, text).

    Kinds are "same", "removed" (only in the original) and "added" (only in the bundle). All pieces
    but the added ones, joined, are the original; all but the removed ones are the bundle's.

    >>> marked("1 May 2011", "1 June 2011")
    (('same', '1 '), ('removed', 'May'), ('added', 'June'), ('same', ' 2011'))
    """
    one, two = (_pieces(text) for text in (original, bundle))
    made: list[tuple[str, str]] = []

    def add(kind: str, pieces: list[str]) -> None:
        if pieces:
            made.append((kind, "".join(pieces)))

    matcher = difflib.SequenceMatcher(None, one, two, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            add("same", one[a:b])
        else:
            add("removed", one[a:b])
            add("added", two[c:d])
    return tuple(made)


def _pieces(text: str) -> list[str]:
    pieces = _PIECE.findall(text)
    rest = "".join(pieces[_MOST:])
    return [*pieces[:_MOST], rest] if rest else pieces
