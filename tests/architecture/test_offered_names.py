"""Names that a module offers to others are used by others."""

from __future__ import annotations

import ast
import re
from collections import Counter

from tests.architecture.test_imports import ROOT, SOURCE
from tools.trees import tree_of

USERS = ("src", "tests", "benchmarks", "zoo", "tools", "examples")


def _offered(tree: ast.Module) -> set[str]:
    """Return the functions and constants in __all__; classes may be types of what is returned."""
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            names |= set(ast.literal_eval(node.value))
    return names - classes


def test_every_function_and_constant_that_is_offered_is_used_elsewhere() -> None:
    files = [path for folder in USERS for path in sorted((ROOT / folder).rglob("*.py"))]
    words = {path: set(re.findall(r"\w+", path.read_text(encoding="utf-8"))) for path in files}
    mentions = Counter(word for found in words.values() for word in found)
    unused = [
        f"{path.relative_to(SOURCE)}: {name}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "__init__.py"
        for name in sorted(_offered(tree_of(path)))
        if mentions[name] < 2
    ]
    assert unused == []
