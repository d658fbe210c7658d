"""Notes are data: every code is listed, used and described."""

from __future__ import annotations

import ast
from pathlib import Path

from hydraopt.files import to_json
from hydraopt.notes import CODES, Note, by_text, stored
from tools.trees import nodes_of

ROOT = Path(__file__).resolve().parents[1]


def _used() -> set[str]:
    """Return the codes of all notes that the source makes."""
    codes = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Note":
                codes.add(_text(node.args[0]))
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "code":
                codes.add(_text(node.value))
    return codes - {""}


def _text(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""


def test_every_code_is_listed_once_and_used() -> None:
    assert _used() == set(CODES)
    assert all(code.isidentifier() and code.islower() for code in CODES)


def test_the_page_has_the_table_of_codes() -> None:
    page = (ROOT / "docs" / "reference" / "notes.md").read_text(encoding="utf-8")
    table = page.partition("<!-- notes -->\n")[2].partition("<!-- /notes -->")[0]
    rows = [f"| `{code}` | {meaning} |" for code, meaning in CODES.items()]
    assert table.splitlines()[2:] == rows


def test_a_note_is_an_object_in_json() -> None:
    assert to_json(Note("dora", "x", "fr")) == {"code": "dora", "text": "x", "where": "fr"}


def test_notes_of_several_adapters_are_joined_by_text() -> None:
    a, b = Note("dora", "x"), Note("alora", "y", "h.q")
    notes = list(by_text([("fr", a), ("de", a), ("de", b)]))
    assert [(x.code, x.where) for x in notes] == [("dora", "fr, de"), ("alora", "de")]


def test_a_bundle_keeps_the_texts_of_notes() -> None:
    assert stored("fr", ["x"]) == (Note("stored", "x", "fr"),)
