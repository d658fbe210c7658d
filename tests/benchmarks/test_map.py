"""README names every result file, and every command that it names is there."""

from __future__ import annotations

import importlib.util
import re
from fnmatch import fnmatchcase

import pytest

from benchmarks.common import RESULTS, ROOT

README = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


def rows() -> list[tuple[str, str]]:
    """Return (command, pattern of its result files) of every row of the tables of commands."""
    found, folder = [], ""
    for line in README.splitlines():
        if head := re.match(r"`python -m benchmarks\.(\w+) COMMAND`:", line):
            folder = head[1]
        elif row := re.match(r"\| `([^`]+)` \| `([^`]+\.json)` \|", line):
            found.append((f"benchmarks.{folder} {row[1]}", f"{folder}/{row[2]}"))
    return found


ROWS = rows()
NAMED = re.findall(r"python -m (benchmarks\.[\w.]+(?: [a-z_]+)?)", README)
COMMANDS = sorted({*NAMED, *(" ".join(command.split()[:2]) for command, _ in ROWS)})


def test_every_result_file_has_one_row() -> None:
    files = [path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*.json")]
    assert files
    counts = {file: sum(fnmatchcase(file, glob) for _, glob in ROWS) for file in files}
    assert {file: count for file, count in counts.items() if count != 1} == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_exists(command: str) -> None:
    module, _, name = command.partition(" ")
    if not name:
        assert importlib.util.find_spec(module)
        return
    assert name in importlib.import_module(f"{module}.__main__").COMMANDS
    assert importlib.util.find_spec(f"{module}.{name}")


def test_a_result_is_named_by_the_command_that_made_it() -> None:
    # What a file says of itself is what README says of it.
    for path in RESULTS.rglob("*.json"):
        file = path.relative_to(RESULTS).as_posix()
        (row,) = (command for command, glob in ROWS if fnmatchcase(file, glob))
        said = re.search(r'"command": "python -m (\S+ \w+)', path.read_text(encoding="utf-8"))
        assert said, file
        assert row.startswith(said[1]), file
