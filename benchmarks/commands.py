"""Commands of a folder: ``python -m benchmarks.FOLDER COMMAND ...`` runs main() of the module."""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["dispatch", "parser_of", "summary_of"]


def parser_of(module: str, about: str | None, direct: bool = False) -> argparse.ArgumentParser:
    """Return a parser that says how its module is run: as a command of its folder, or directly."""
    package, _, command = module.rpartition(".")
    return argparse.ArgumentParser(
        prog=f"python -m {module if direct else f'{package} {command}'}",
        description=about,
        formatter_class=argparse.RawTextHelpFormatter,
    )


def summary_of(package: str, command: str) -> str:
    """Return the first line of a module's docstring; nothing is imported for it."""
    folder = Path(str(sys.modules[package].__file__)).parent
    text = (folder / f"{command}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def dispatch(package: str, commands: Sequence[str]) -> int:
    """Run the command that the first argument names, or list them; return the exit code."""
    given = sys.argv[1:]
    if not given or given[0] in ("-h", "--help"):
        print(f"usage: python -m {package} COMMAND ...\n")
        for command in commands:
            print(f"  {command:16} {summary_of(package, command)}")
        return 0
    command, *rest = given
    if command not in commands:
        print(
            f"no such command: {command}\n  expected: {', '.join(commands)}",
            file=sys.stderr,
        )
        return 2
    return importlib.import_module(f"{package}.{command}").main(rest) or 0
