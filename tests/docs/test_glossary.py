"""The classes and folders that the glossary names exist."""

from __future__ import annotations

import ast
import re

from tests.docs.pages import DOCS, ROOT, paragraphs
from tools.trees import tree_of

GLOSSARY = (DOCS / "reference" / "glossary.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src" / "hydraopt"


def entries() -> list[str]:
    return [text for text in paragraphs(GLOSSARY) if text.startswith("**")]


def test_its_classes_exist() -> None:
    named = set(re.findall(r"`([A-Z]\w+)`", GLOSSARY))
    assert len(named) > 20
    assert named - types() == set()


def types() -> set[str]:
    """Names of classes, and of types that a module names."""
    names = set()
    for path in SOURCE.rglob("*.py"):
        tree = tree_of(path)
        names |= {x.name for x in ast.walk(tree) if isinstance(x, ast.ClassDef)}
        for node in tree.body:
            if isinstance(node, ast.Assign):
                names |= {x.id for x in node.targets if isinstance(x, ast.Name)}
    return names


def test_its_folders_exist() -> None:
    named = set(re.findall(r"`([a-z/]+)/`", GLOSSARY))
    assert len(named) > 5
    assert [x for x in named if not ((SOURCE / x).is_dir() or (ROOT / x).is_dir())] == []
