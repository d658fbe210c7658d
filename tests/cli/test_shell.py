"""The shell itself: help, start-up, exit codes, and that the documents know every verb."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import hydraopt
from hydraopt.cli import terminal as common
from hydraopt.cli.main import COMMANDS, cli, command_named
from tools import cli_reference

ROOT = Path(__file__).resolve().parents[2]
VERBS = (
    *("add", "doctor", "eval", "export", "inspect", "join", "merge", "plan", "pull"),
    *("refresh", "remove", "report", "serve", "shrink", "split", "verify"),
)
COMMON = {"--json", "--quiet"}
HEAVY = ("numpy", "scipy", "torch", "rich", "matplotlib", "safetensors", "zstandard")


def test_the_commands_are_these() -> None:
    assert tuple(sorted(COMMANDS)) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_the_common_options(verb: str) -> None:
    assert {name for x in command_named(verb).params for name in x.opts} >= COMMON


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_has_an_example_that_parses(verb: str) -> None:
    result = CliRunner().invoke(cli, [verb, "--help"] if verb else ["--help"])
    assert result.exit_code == 0
    _, heading, example = result.output.partition("Example:")
    assert heading
    lines = re.findall(r"^\s+hydraopt (\S+) (.+)$", example, re.MULTILINE)
    assert lines
    for name, rest in lines:
        # Parsing only: an option that does not exist, or a missing argument, raises.
        command_named(name).make_context(name, rest.split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_and_command_explains_itself(verb: str) -> None:
    command = command_named(verb)
    assert command.get_short_help_str()
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "hydraopt", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert hydraopt.__version__ in said.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["merge", "--help"], ["--version"]])
def test_start_up_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom hydraopt.cli.main import cli\n"
        f"try:\n    cli({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"loaded = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_version() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.output == f"hydraopt, version {hydraopt.__version__}\n"


@pytest.mark.slow
def test_the_installed_command_refuses_cleanly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from hydraopt.cli.main import main; main()", "inspect", "nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: no such file or folder")
    assert "Traceback" not in done.stderr


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_CODE = re.compile(r"^ *```(?:text)?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
GUIDES = [
    ROOT / "README.md",
    ROOT / "docs" / "tutorial.md",
    *(ROOT / "docs" / "howto").glob("*.md"),
]


@pytest.mark.parametrize("verb", VERBS)
def test_the_documents_mention_every_command(verb: str) -> None:
    assert f"hydraopt {verb}" in "".join(page.read_text(encoding="utf-8") for page in GUIDES)


def commands_in(text: str) -> list[str]:
    """Return lines of code that start with ``hydraopt``; test_documents runs those after a ``$``.

    A line with brackets or dots is a usage, not a command.
    """
    code = "\n".join(_CODE.findall(text))
    lines = re.findall(r"^ *(?:\$ )?hydraopt (\w.+)$", code, re.MULTILINE)
    return [line.split("#")[0] for line in lines if "[" not in line and "..." not in line]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_the_documents_parse(page: Path) -> None:
    for line in commands_in(page.read_text(encoding="utf-8")):
        verb, *rest = line.split()
        command_named(verb).make_context(verb, rest)


def test_examples_in_the_help_parse() -> None:
    lines = commands_in(cli_reference.sections())
    assert len(lines) > 20
    for line in lines:
        verb, *rest = line.split()
        command_named(verb).make_context(verb, rest)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (46_800, "46.8 kB"), (3.1e6, "3.10 MB")],
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert common.size_text(count) == text


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        common.emit_json({"x": float("nan")})
