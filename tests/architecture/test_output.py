"""The library prints nothing: it returns, raises, or logs below the logger "hydraopt"."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hydraopt
from tools.trees import tree_of

SOURCE = Path(hydraopt.__file__).parent
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call by the last name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else None
            yield name or getattr(node.func, "id", ""), node


def test_only_the_commands_write_to_the_terminal() -> None:
    found = []
    for path in SOURCE.rglob("*.py"):
        if path.is_relative_to(SOURCE / "cli"):
            continue
        tree = tree_of(path)
        found += [(path, "print") for name, _ in calls(tree) if name == "print"]
        found += [
            (path, node.attr)
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr in STREAMS
            and isinstance(node.value, ast.Name)
            and node.value.id == "sys"
        ]
    assert found == []


def test_every_logger_is_below_the_librarys() -> None:
    """A program sets the level and handlers of all of hydraopt by one name."""
    loggers = set()
    for path in SOURCE.rglob("*.py"):
        for name, call in calls(tree_of(path)):
            if name == "getLogger":
                loggers.add(ast.unparse(call.args[0]) if call.args else "")
    assert loggers
    assert all(x == "__name__" or x.strip("'").partition(".")[0] == "hydraopt" for x in loggers)
