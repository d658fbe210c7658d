"""Commands and options of earlier builds: each names what to use instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hydraopt.cli.main import cli
from hydraopt.cli.moved import COMMANDS, OPTIONS
from tests.cli.conftest import Run
from tests.raising import check_refused

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "moved.md"


def rows(heading: str) -> list[tuple[list[str], str]]:
    """Return the names in the first cell of each row, and the text of the second cell."""
    section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if "`" in line[:3]]
    plain = re.compile(r"\[([^\]]+)\]\([^)]+\)")
    return [
        (re.findall(r"`([^\s`]+)[^`]*`", earlier), plain.sub(r"\1", now).replace("`", ""))
        for earlier, now in cells
    ]


def test_the_page_states_what_the_commands_say() -> None:
    assert {name: now for (name,), now in rows("Commands")} == COMMANDS
    stated = {}
    for names, now in rows("Options"):
        commands = [name for name in names if not name.startswith("--")] or [""]
        options = [name for name in names if name.startswith("--")]
        stated |= {(command, option): now for command in commands for option in options}
    assert stated == OPTIONS


@pytest.mark.parametrize("name", COMMANDS)
def test_a_removed_command_names_its_place_alone(run: Run, name: str) -> None:
    assert name not in cli.commands
    done = run(name, "x")
    check_refused(done, names=COMMANDS[name])
    assert "Did you mean" not in done.stderr


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_a_removed_option_names_its_place_alone(run: Run, command: str, option: str) -> None:
    done = run(command or "inspect", "x", option, "3")
    check_refused(done, names=OPTIONS[command, option])
    assert "possible options" not in done.stderr.lower()
    assert "Did you mean" not in done.stderr


def test_options_that_a_command_has_are_not_removed_ones() -> None:
    for command, option in OPTIONS:
        if command:
            assert not any(option in x.opts for x in cli.commands[command].params)


def test_a_misspelt_command_has_a_hint(run: Run) -> None:
    check_refused(run("mergee"), names="merge")
    check_refused(run("merge", "x", "--siz", "5%"), names="--size")
