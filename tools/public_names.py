"""List of the public names, from the code that defines them.

``python -m tools.public_names [--check]`` writes it into docs/reference/stability.md.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable

import click

import hydraopt
from hydraopt import errors
from hydraopt.cli.main import COMMANDS, command_named
from hydraopt.codec import plugins
from tools.pages import ROOT, between, settle

__all__ = ["PAGE", "page"]

PAGE = ROOT / "docs" / "reference" / "stability.md"
_WIDTH = 118
_COMMON = {"--json", "--quiet"}
"""Options of every command, which the page states once."""


def _python() -> list[str]:
    classes = (name for name in errors.__all__ if isinstance(getattr(errors, name), type))
    kinds = [name for name in classes if issubclass(getattr(errors, name), Exception)]
    groups = (plugins.EXPORTER_GROUP, plugins.MEASURE_GROUP, plugins.METHOD_GROUP)
    return [
        _row("hydraopt", hydraopt.__all__),
        _row("hydraopt.errors", kinds),
        _row("entry points", groups),
    ]


def _command_line() -> list[str]:
    rows = []
    for name in sorted(COMMANDS):
        command = command_named(name)
        options = (x for x in command.params if isinstance(x, click.Option) and not x.hidden)
        longest = {max(y, key=len) for x in options for y in (x.opts, x.secondary_opts) if y}
        rows.append(_row(name, longest - _COMMON))
    return rows


def _c() -> list[str]:
    rows = []
    for header in sorted((ROOT / "native" / "include").glob("*.h")):
        text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.DOTALL)
        functions = re.findall(r"\b(hydra_\w+)\(", text)
        types = re.findall(r"^(?:typedef .*|\} )\b(hydra_\w+);", text, flags=re.MULTILINE)
        constants = re.findall(r"(?:#define )?\b(HYDRA_\w+)(?: =| [\"\d])", text)
        rows.append(_row(header.name, {*functions, *types, *constants}))
    return rows


def _javascript() -> list[str]:
    text = (ROOT / "native" / "js" / "src" / "index.d.ts").read_text(encoding="utf-8")
    exported = re.findall(r"^export (?:class|function|interface|type) (\w+)", text, re.MULTILINE)
    return [_row("hydraopt", exported)]


def _row(name: str, names: Iterable[str]) -> str:
    return textwrap.fill(
        f"{name}: {' '.join(sorted(names))}",
        _WIDTH,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def page() -> str:
    """Return the page with the lists as they are now."""
    text = PAGE.read_text(encoding="utf-8")
    lists = {
        "python": _python(),
        "command-line": _command_line(),
        "c": _c(),
        "javascript": _javascript(),
    }
    for mark, rows in lists.items():
        block = "\n".join(["```text", *rows, "```"])
        text = between(text, f"public {mark}", block)
    return text


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if it differs")
    settle(PAGE, page(), "python -m tools.public_names", parser.parse_args().check)


if __name__ == "__main__":
    main()
