"""A command that is ended from outside takes along what it made for itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.marks import slow

_WAIT = """
import atexit, pathlib, signal, sys, time
import click
from hydraopt.cli import main
from hydraopt.files.writing import scratch_folder

# Under nohup the tests, too, are started with it ignored.
signal.signal(signal.SIGHUP, signal.SIG_IGN if "ignored" in sys.argv else signal.SIG_DFL)

@click.command()
@click.argument("target")
@click.argument("how")
def wait(target, how):
    with scratch_folder(pathlib.Path(target)):
        print("made", flush=True)
        time.sleep(1 if how == "ignored" else 60)
    print("done", flush=True)

if "slowly" in sys.argv:
    atexit.register(time.sleep, 1)
main.cli.add_command(wait)
main.main()
"""


def ended(tmp_path: Path, number: int, how: str, times: int = 1) -> tuple[int, str, str]:
    """What is left of a command at whose work signals came: exit code, stdout, stderr."""
    command = [sys.executable, "-c", _WAIT, "wait", str(tmp_path / "out"), how]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        assert len(list(tmp_path.iterdir())) == 1
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.02)
        out, err = process.communicate(timeout=30)
    assert list(tmp_path.iterdir()) == []
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGHUP)])
def test_what_is_ended_cleans_up(tmp_path: Path, number: int) -> None:
    assert ended(tmp_path, number, "ended") == (128 + number, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_again_disturbs_no_end(tmp_path: Path, number: int) -> None:
    once = ended(tmp_path, number, "slowly")
    assert once[0] == 128 + number
    assert ended(tmp_path, number, "slowly", times=20) == once


@pytest.mark.slow
def test_what_ignores_a_signal_goes_on(tmp_path: Path) -> None:
    """As under nohup."""
    assert ended(tmp_path, signal.SIGHUP, "ignored") == (0, "done\n", "")
