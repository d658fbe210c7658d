"""What is printed, and where to: names from files, other encodings, readers who have gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hydraopt import merge
from hydraopt.bundle import verify_bundle
from hydraopt.cli import terminal as common
from tests.cli.conftest import Run
from tests.conftest import MakeAdapter
from tests.marks import slow

BAD = "a\x1b[2J\r\n\x9b\x7f\u202e\u2066\u2028\ufeffz"
WRITTEN = "a\\x1b[2J\\r\\n\\x9b\\x7f\\u202e\\u2066\\u2028\\ufeffz"
PEOPLE = "Größe-日本語-👩💻"


def test_what_a_terminal_obeys_is_written_out() -> None:
    assert common.printable(BAD) == WRITTEN
    assert common.printable("\udc9b") == "\\udc9b"  # a byte of a file name that is no UTF-8


def test_names_of_people_stay_as_they_are() -> None:
    joined = f"{PEOPLE}نمونه\u200cها-👩\u200d💻"
    assert common.printable(joined) == joined


@pytest.mark.parametrize(
    "show",
    [
        common.say,
        lambda text: common.show_table(text, [text], [[text]]),
    ],
)
def test_nothing_raw_is_printed(
    show: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show(BAD)
    out = capsys.readouterr().out
    assert WRITTEN in out
    assert not set(BAD) - {"\n"} - set(WRITTEN) & set(out)


@pytest.mark.parametrize("text", [BAD, "\udc9b", PEOPLE])
def test_json_is_escaped_and_the_same_text(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    common.emit_json({text: text})
    out = capsys.readouterr().out
    assert json.loads(out) == {text: text}
    assert all(common.printable(line) == line for line in out.splitlines())


def test_a_hostile_path_is_written_out(tmp_path: Path, make_adapter: MakeAdapter, run: Run) -> None:
    rng = np.random.default_rng(0)
    pair = (rng.standard_normal((8, 2)), rng.standard_normal((2, 6)))
    folder = make_adapter(tmp_path / "a\x1b[2J\u202e" / "de", {"h.0.q": pair})
    refused = run("inspect", folder / "nowhere")
    merged = run("merge", folder, "-o", folder.parent / "b", "--size", "9000")
    assert (refused.exit_code, merged.exit_code) == (2, 0), merged.output
    for printed in (refused.stderr, merged.stdout):
        assert "\\x1b[2J\\u202e" in printed
        assert not {"\x1b", "\u202e"} & set(printed)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hydraopt", *map(str, arguments)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"PYTHONIOENCODING": "ascii"}, ["inspect", "--list", "--json"]),
        slow({"LC_ALL": "C"}, ["inspect"]),
        slow({"PYTHONIOENCODING": "ascii"}, ["inspect", "--json"]),
    ],
)
def test_names_print_in_any_encoding(
    settings: dict[str, str],
    words: list[str],
    tmp_path: Path,
    make_adapter: MakeAdapter,
) -> None:
    rng = np.random.default_rng(0)
    pair = (rng.standard_normal((8, 2)), rng.standard_normal((2, 6)))
    folder = make_adapter(tmp_path / PEOPLE, {"h.0.q": pair})
    merge([folder], tmp_path / "b", lossless=True)
    shown = tmp_path / "b" if "--list" in words else folder
    done = subprocess.run(
        command(words[0], shown, *words[1:]), capture_output=True, env={**os.environ, **settings}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    if "--json" in words:
        encoding = settings.get("PYTHONIOENCODING", "utf-8")
        tasks = json.loads(done.stdout.decode(encoding))["tasks"]
        assert [task["name"] for task in tasks] == [PEOPLE]


def shell(line: str, *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of the command in a line of bash, where it is "$@"."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line, "bash", *command(*arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


# Each starts a process or two.
QUIET = [
    '"$@" >&-',
    '"$@" | head -1',
    slow('"$@" | true'),
    slow('"$@" <&- >&-'),
    slow('"$@" <&- >&- 2>&-'),
]


@pytest.mark.parametrize("line", [slow('"$@" >&-'), *QUIET[1:]])
def test_nobody_need_read_the_output(line: str, bundle: Path) -> None:
    # An exit code says what became of the work, whoever reads of it.
    assert shell(line, "inspect", bundle, "--modules") == (0, "")
    assert shell(line, "--help") == (0, "")


@pytest.mark.parametrize("line", QUIET)
def test_a_problem_is_told_by_the_exit_code_all_the_same(
    line: str, bundle: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    content = bytearray(bundle.read_bytes())
    content[-20] ^= 1
    damaged.write_bytes(content)
    assert shell(line, "verify", damaged) == (1, "")


@pytest.mark.slow
def test_a_file_does_not_get_the_number_of_a_closed_stream(adapters: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    words = ["merge", *sorted(adapters.iterdir()), "--lossless", "-o", out]
    assert shell('"$@" >&- 2>&-', *words) == (0, "")
    assert verify_bundle(out).ok


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", [[], slow(["--json"])])
def test_an_output_that_is_full_is_named(words: list[str], bundle: Path) -> None:
    code, said = shell('"$@" > /dev/full', "inspect", bundle, *words)
    assert code == 2
    assert said == (
        "Error: No space left on device [standard output]. Make room, or write elsewhere.\n"
    )
