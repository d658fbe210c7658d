"""docs/reference/cli.md from the commands themselves.

python -m tools.cli_reference [--check]
"""

from __future__ import annotations

import argparse
import re
import textwrap

import click

from hydraopt.cli.main import cli
from tools.pages import ROOT, settle

__all__ = ["PAGE", "page"]

PAGE = ROOT / "docs" / "reference" / "cli.md"
WIDTH = 100
_COMMON = ("- `--json`:", "- `-q, --quiet`:")
"""Options of every command, which the introduction describes."""

INTRODUCTION = """\
# Command line

`hydraopt` has {count} commands. Each prints the text below with `--help`, and has two more options:
`--json` prints JSON for machines instead of a table, and `-q` or `--quiet` prints only errors.
`python -m tools.cli_reference` writes this page from the commands.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | `verify` or `doctor` found problems |
| 2 | error that you can correct; the reason is on stderr |
| 70 | unexpected error; stderr names the files and says how to report it |
| 130 | interrupted; no output is left half written |
| 143, 129 | the same, terminated by SIGTERM or SIGHUP |

With `HYDRAOPT_TRACEBACK=1` in the environment, a command that fails prints a traceback. If the
reader of stdout ends early (`| head -1`), the exit code does not change.

The inner loops are compiled when they first run. The machine code is stored next to the package,
otherwise in the cache folder of the user, otherwise in `hydraopt-UID` in the folder for temporary
files. If none of these can be written, every run compiles again and prints a note on stderr.
`NUMBA_CACHE_DIR` selects another folder.
"""


def page() -> str:
    """Return the whole page: an introduction, then a section for each command, by name."""
    commands = sorted(cli.commands.items())
    sections = [_section(name, command) for name, command in commands]
    return INTRODUCTION.format(count=len(commands)) + "\n" + "\n".join(sections)


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"hydraopt {name}")
    usage = " ".join(["hydraopt", name, *command.collect_usage_pieces(context)])
    text, _, example = (command.help or "").replace("\b", "").partition("Example:")
    parts = [f"## {name}", _code(usage), _paragraphs(text)]
    if example.strip():
        parts.append(_code(textwrap.dedent(example.strip("\n")).strip()))
    options = [_option(x) for x in command.params if isinstance(x, click.Option)]
    own = [text for text in options if not text.startswith(_COMMON)]
    return "\n\n".join([*parts, *(["\n".join(own)] if own else [])]) + "\n"


def _code(text: str) -> str:
    return f"```text\n{text}\n```"


def _paragraphs(text: str) -> str:
    blocks = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(_wrapped(" ".join(block.split())) for block in blocks)


def _wrapped(text: str, first: str = "", rest: str = "") -> str:
    # A line must not begin with a number and a full stop: it would be an item of a list.
    bound = re.sub(r" (\d+\.) ", "\N{NO-BREAK SPACE}\\1 ", text)
    lines = textwrap.fill(
        bound,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def _option(option: click.Option) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {_value(option)}"
    remarks = [f"`{names}{value}`:", option.help or ""]
    if option.required:
        remarks.append("Required.")
    low, high = (getattr(option.type, end, None) for end in ("min", "max"))
    if low is not None:
        remarks.append(f"From {low} to {high}." if high is not None else f"At least {low}.")
    if option.show_default and option.default is not None and not option.is_flag:
        remarks.append(f"Default `{option.default}`.")
    return _wrapped(" ".join(remarks), "- ", "  ")


def _value(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(str(choice) for choice in option.type.choices)
    plain = {"integer": "NUMBER", "integer range": "NUMBER", "float": "NUMBER"}
    return plain.get(option.type.name, option.type.name.upper())


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if it differs")
    settle(PAGE, page(), "python -m tools.cli_reference", parser.parse_args().check)


if __name__ == "__main__":
    main()
