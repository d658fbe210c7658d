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

from hydraopt.cli import terminal as progress_module
from hydraopt.cli.options import common_options
from hydraopt.cli.terminal import progress_bar


def test_a_line_each_half_minute(monkeypatch, capsys) -> None:
    now = 0.0
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now)
    with progress_bar() as move:
        assert move is not None
        for done in range(1, 8):
            now += 10.0
            move("a [stage]\n", done, 40)
    assert capsys.readouterr().err.splitlines() == [
        rf"a [stage]\n: {done} of 40" for done in (3, 6)
    ]


def test_a_log_that_is_gone_ends_no_work(monkeypatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(progress_module, "EVERY", 0.0)
    monkeypatch.setattr("sys.stderr", Gone())
    with progress_bar() as move:
        assert move is not None
        move("writing", 1, 2)


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


def test_a_warning_has_a_line_of_its_own_on_a_terminal() -> None:
    """The bar gives way to it, whatever other stream goes there."""
    code = """
from hydraopt.cli.terminal import warn
from hydraopt.notes import Note
from hydraopt.cli.terminal import progress_bar
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
