"""Break the source in places drawn at random, and count the breaks that the fast tests notice.

    python -m tools.mutants [--draws 40] [--seed 1] [PYTEST OPTION ...]

Every draw changes one expression or statement of one function of src/hydraopt, runs the tests until
the first failure, and restores the file. A break that changes no behaviour survives, so even a
perfect suite misses some. Run it in a clone of its own.
"""

from __future__ import annotations

import argparse
import ast
import copy
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path("src/hydraopt")
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def broken(node: ast.AST) -> ast.AST | None:
    """Return a changed copy of the node, or None if there is no break for its kind."""
    node = copy.deepcopy(node)
    match node:
        case ast.Compare(ops=[op, *rest]) if type(op) in SWAPS:
            node.ops = [SWAPS[type(op)](), *rest]  # type: ignore[list-item]
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            node.op = SWAPS[type(op)]()  # type: ignore[assignment]
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value)):
            node.value = value + 1
        case ast.Expr(value=ast.Call()):
            return ast.Pass()
        case ast.Return(value=ast.expr()):
            node.value = ast.Constant(None)
        case _:
            return None
    return node


def places(path: Path) -> Iterator[tuple[Path, ast.AST, str]]:
    """Yield the places of a file that can be broken, each with the text that breaks it."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            for statement in function.body:
                for node in ast.walk(statement):
                    change = broken(node)
                    if change is not None and not isinstance(statement, ast.FunctionDef):
                        yield path, node, ast.unparse(change)


def offset(lines: list[bytes], line: int, column: int) -> int:
    return sum(map(len, lines[: line - 1])) + column


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    arguments, options = parser.parse_known_args()
    found = [place for path in sorted(SOURCE.rglob("*.py")) for place in places(path)]
    noticed = 0
    for path, node, text in random.Random(arguments.seed).sample(found, arguments.draws):
        before = path.read_bytes()
        lines = before.splitlines(keepends=True)
        start = offset(lines, node.lineno, node.col_offset)  # type: ignore[attr-defined]
        end = offset(lines, node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
        # Parentheses keep the precedence of an expression and let it span lines.
        new = f"({text})" if isinstance(node, ast.expr) else text
        clock = time.monotonic()
        try:
            path.write_bytes(before[:start] + new.encode() + before[end:])
            command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-rfE", *options]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=900)
                failed, output = done.returncode != 0, done.stdout
            except subprocess.TimeoutExpired:
                failed, output = True, ""
        finally:
            path.write_bytes(before)
        noticed += failed
        seconds = time.monotonic() - clock
        word = "noticed" if failed else "missed "
        was = ast.unparse(node)[:60]
        print(f"{word} {seconds:4.0f} s  {path}:{node.lineno}  {was} -> {text[:60]}")  # type: ignore[attr-defined]
        print(*re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)[:1], flush=True)
    print(f"{noticed} of {arguments.draws} breaks noticed")


if __name__ == "__main__":
    main()
