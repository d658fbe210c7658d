"""Reference of the command line, from the commands themselves.

``python -m tools.cli_reference [--check]`` writes the table of commands in docs/reference/cli.md.
The site shows a section for each command below it (tools/site.py).
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections import Counter
from collections.abc import Mapping

import click

from hydraopt.cli.main import COMMANDS, command_named
from tools.pages import ROOT, between, settle

__all__ = ["PAGE", "page", "sections", "table"]

PAGE = ROOT / "docs" / "reference" / "cli.md"
WIDTH = 118
_COMMON = ("- `--json`:", "- `-q, --quiet`:")
"""Options of every command, which the introduction describes."""
_SEVERAL = 3
"""Number of commands with the same option and text from which the page describes it once."""


def table() -> str:
    """Return the table of commands, with the first sentence of the help of each."""
    rows = (
        f"| `{name}` | {(command.help or '').split(chr(10), 1)[0].rstrip('.')} |"
        for name, command in ((x, command_named(x)) for x in sorted(COMMANDS))
    )
    return "\n".join(["| command | purpose |", "|---|---|", *rows])


def sections() -> str:
    """Return the options of all commands, then a section for each command, by name."""
    options = {
        name: _options(command)
        for name, command in ((x, command_named(x)) for x in sorted(COMMANDS))
    }
    counts = Counter(text for texts in options.values() for text in texts.values())
    shared = sorted(text for text, count in counts.items() if count >= _SEVERAL)
    made = [_section(name, command_named(name), options[name], shared) for name in options]
    return "\n".join(["## Options of several commands\n", *shared, "", *made])


def _options(command: click.Command) -> dict[str, str]:
    """Return the text of each option by its longest name, without those of every command."""
    options = [x for x in command.params if isinstance(x, click.Option)]
    texts = {x.opts[-1]: _option(x) for x in options}
    return {name: text for name, text in texts.items() if not text.startswith(_COMMON)}


def _section(
    name: str, command: click.Command, options: Mapping[str, str], shared: list[str]
) -> str:
    context = click.Context(command, info_name=f"hydraopt {name}")
    usage = " ".join(["hydraopt", name, *command.collect_usage_pieces(context)])
    text, _, example = (command.help or "").replace("\b", "").partition("Example:")
    parts = [f"## {name}", _code(usage), _paragraphs(text)]
    if example.strip():
        parts.append(_code(textwrap.dedent(example.strip("\n")).strip()))
    own = [text for text in options.values() if text not in shared]
    also = [f"`{name}`" for name, text in options.items() if text in shared]
    if also:
        own.append(
            _wrapped(f"{', '.join(also)}: [above](#options-of-several-commands).", "- ", "  ")
        )
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


def page() -> str:
    """Return the page with its table of commands."""
    return between(PAGE.read_text(encoding="utf-8"), "commands", table())


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if it differs")
    settle(PAGE, page(), "python -m tools.cli_reference", parser.parse_args().check)


if __name__ == "__main__":
    main()
