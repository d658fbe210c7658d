"""Syntax trees of source files, each parsed once per process."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

__all__ = ["nodes_of", "tree_of"]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of the syntax tree of a Python file."""
    return tuple(ast.walk(tree_of(path)))
