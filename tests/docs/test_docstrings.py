"""Docstrings begin with a verb or a noun; ruff's rules D check their form and their mood."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tools.trees import nodes_of

SOURCE = ROOT / "src" / "hydraopt"
LATER = frozenset(
    {
        *("basemodel", "bundle", "collection", "editing", "evaluate", "harm", "merging"),
        *("methods", "probes"),
    }
)
"""Packages whose docstrings do not follow the rule yet."""
_VAGUE = re.compile(
    r"(The|A|An|What|How|Of|Those|These|That|Which|Who|Whose|Where|Whether|In which|As|It)\b"
)


@pytest.mark.parametrize(
    "package", sorted({x.parent.name for x in SOURCE.glob("*/__init__.py")} - LATER)
)
def test_a_docstring_begins_with_a_verb_or_a_noun(package: str) -> None:
    vague = [
        f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}"
        for path in sorted((SOURCE / package).rglob("*.py"))
        for node, text in docstrings(path)
        if _VAGUE.match(text)
    ]
    assert vague == []


def docstrings(path: Path) -> list[tuple[ast.AST, str]]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in nodes_of(path) if isinstance(node, kinds)]
    return [(node, text) for node in nodes if (text := ast.get_docstring(node))]
