"""Progress where stderr is no terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from contextlib import suppress

import click
import pytest
from click.testing import CliRunner

from hydraopt.cli import progress as progress_module
from hydraopt.cli.options import common_options
from hydraopt.cli.progress import progress_bar, progress_lines


def test_a_line_each_half_minute_with_the_time_left() -> None:
    said: list[str] = []
    now = 0.0
    move = progress_lines(said.append, lambda: now)
    for done in range(1, 11):
        now += 10.0
        move("measuring harm", done, 40)
    assert said == [
        "measuring harm: 3 of 40, about 6 min left",
        "measuring harm: 6 of 40, about 6 min left",
        "measuring harm: 9 of 40, about 5 min left",
    ]


def test_a_stage_that_begins_after_the_first_line_is_told_at_once() -> None:
    lines, now = list[str](), [0.0]
    move = progress_lines(lines.append, lambda: now[0])
    for at, stage in ((1.0, "a"), (31.0, "a"), (32.0, "b, x (1 of 2)"), (33.0, "b, y (2 of 2)")):
        now[0] = at
        move(stage, 1, 3)
    assert [line.partition(":")[0] for line in lines] == ["a", "b, x (1 of 2)"]


def test_the_time_left_is_that_of_the_stage() -> None:
    said: list[str] = []
    now = 0.0
    move = progress_lines(said.append, lambda: now)
    now = 500.0
    move("pass 1", 10, 20)  # what was before the stage tells nothing of its speed
    assert said.pop() == "pass 1: 10 of 20"
    now = 531.0
    move("pass 1", 20, 20)
    assert said.pop() == "pass 1: 20 of 20, about 0 s left"
    for now in (541.0, 551.0, 561.0):  # the same stage anew
        move("pass 1", round((now - 531.0) / 10), 20)
    assert said.pop() == "pass 1: 3 of 20, about 3 min left"
    now = 591.0
    move("a [stage]\n", 1, 2)
    assert said.pop() == r"a [stage]\n: 1 of 2"


def test_a_stage_that_goes_on_has_what_was_between_in_its_speed() -> None:
    """Eight rounds of four tasks, a second each, behind passes of 46 seconds: 50 a round."""
    said: list[str] = []
    now = 0.0
    move = progress_lines(said.append, lambda: now)
    for number in range(3):
        now += 46.0
        move(f"pass {number}", 1, 1)
        for task in range(4):
            now += 1.0
            move("measuring harm", 4 * number + task + 1, 32)
    assert said[-1] == "pass 2: 1 of 1"
    now += 30.0
    move("measuring harm", 13, 32)
    assert (
        said[-1]
        == f"measuring harm: 13 of 32, about {(3 + 50 + 50 + 30) / 12 * 19 / 60:.0f} min left"
    )


def test_the_time_left_of_a_whole_is_told_from_rounds_that_are_done() -> None:
    """Not from the last pass, and nothing is told before there is a round to tell it from."""
    said: list[str] = []
    now = 0.0
    move = progress_lines(said.append, lambda: now)
    for number in range(3):
        for done in range(1, 11):
            move(f"measuring harm, round {number + 1} of 8, pass {done} of 10", number, 8)
            now += 10.0
    assert not any("left" in line for line in said[:3])
    # Round 3 has begun: two rounds took 200 s, six are to come, 600 s and a little for this one.
    left = [int(line.split("about ")[1].split()[0]) for line in said[-3:]]
    assert all(10 <= minutes <= 15 for minutes in left)
    assert not any("at most" in line for line in said)
    move("measuring harm, round 4 of at most 9, pass 1 of 10", 3, 9)
    assert "at most about" in said[-1]


def test_a_log_that_is_gone_ends_no_work(monkeypatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(progress_module, "EVERY", 0.0)
    monkeypatch.setattr("sys.stderr", Gone())
    with progress_bar() as move:
        assert move is not None
        move("writing", 1, 2)


def test_short_work_says_nothing(capsys) -> None:
    with progress_bar() as progress:
        assert progress is not None
        progress("writing", 1, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option", ["--json", "-q"])
def test_json_and_quiet_report_no_progress(option: str) -> None:
    @click.command()
    @common_options
    def command(as_json: bool) -> None:
        with progress_bar() as progress:
            assert progress is None

    done = CliRunner().invoke(command, [option])
    assert done.exception is None


def test_a_bar_starts_anew_with_each_stage(monkeypatch) -> None:
    import rich.progress

    bars = []

    class Watched(rich.progress.Progress):
        def __init__(self, *columns, **options) -> None:
            super().__init__(*columns, **options)
            bars.append(self)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(rich.progress, "Progress", Watched)
    monkeypatch.setattr(progress_module.sys, "stderr", Terminal())
    with progress_bar() as move:
        assert move is not None
        move("pass 1", 2, 2)
        (task,) = bars[0].tasks
        assert task.finished
        for stage, done in (("pass 2", 1), ("pass 2", 2), ("pass 2", 1)):
            move(stage, done, 2)
            assert task.finished == (done == 2)
            assert (task.description, task.completed) == (stage, done)
            assert task.fields["left"] == ("about 0 s left" if done == 2 else "")


def test_a_warning_has_a_line_of_its_own_on_a_terminal() -> None:
    """The bar gives way to it, whatever other stream goes there."""
    code = """
from hydraopt.cli.common import warn
from hydraopt.notes import Note
from hydraopt.cli.progress import progress_bar
with progress_bar() as move:
    move("first", 1, 4)
    warn(Note("few_prompts", "few prompts of [a] b"))
    move("first", 2, 4)
"""
    ours, theirs = pty.openpty()
    terminal = {"TERM": "xterm", "COLUMNS": "80"}
    known = {key: x for key, x in os.environ.items() if not key.startswith("TTY_")} | terminal
    asked = [sys.executable, "-c", code]
    with subprocess.Popen(asked, stdout=theirs, stderr=theirs, env=known) as process:
        assert process.wait(60) == 0
    os.close(theirs)
    said = b""
    with suppress(OSError):  # how Linux tells that nobody writes there any more
        while more := os.read(ours, 1 << 16):
            said += more
    os.close(ours)
    assert "\x1b[2Kwarning: few prompts of [a] b\r\n" in said.decode()
