"""What is left of an export that ends in the middle: nothing, or what the next one removes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.native.conftest import Run, compiler

pytestmark = pytest.mark.slow

WAIT = "#include <unistd.h>\nint fsync(int fd) { (void)fd; return pause(); }\n"
"""In place of the system's fsync: a file is written, and the export waits to be ended."""
KINDS = ["peft", "raw", "gguf"]


@pytest.fixture
def waiting(hydra: str, tmp_path: Path) -> dict[str, str]:
    """The environment in which the command waits when its first file is written."""
    if not sys.platform.startswith("linux"):
        pytest.skip("LD_PRELOAD is Linux's")
    (tmp_path / "wait.c").write_text(WAIT)
    narrow = ["-m32"] if Path(hydra).read_bytes()[4] == 1 else []
    words = [compiler(), *narrow, "-shared", "-fPIC", "-o", tmp_path / "wait.so"]
    subprocess.run([*words, tmp_path / "wait.c"], check=True)
    return {
        **os.environ,
        "LD_PRELOAD": str(tmp_path / "wait.so"),
        "ASAN_OPTIONS": "verify_asan_link_order=0",
    }


def extracting(numbers: Path, kind: str, out: Path) -> list[str]:
    config = out.parent.parent / "config.json"
    base = {"model_type": "llama", "num_attention_heads": 9, "num_key_value_heads": 3}
    config.write_text(json.dumps({**base, "num_hidden_layers": 30}))
    words = ("extract", numbers, "numbers-de", "-o", out, "--to", kind, "--base", config)
    return [*map(str, words)]


def started(words: list[str], environment: dict[str, str], number: int) -> subprocess.Popen[bytes]:
    """The command, which a signal ends even if it does not end us, as under nohup."""
    if number == signal.SIGKILL:
        return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sign", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_signal_leaves_nothing(
    run: Run,
    hydra: str,
    numbers: Path,
    waiting: dict[str, str],
    kind: str,
    sign: str,
    tmp_path: Path,
) -> None:
    place, number = tmp_path / "place", signal.Signals[sign]
    place.mkdir()
    words = extracting(numbers, kind, place / "out")
    child = started([hydra, *words], waiting, number)
    limit = time.monotonic() + 60
    while not any(x.is_file() for x in place.rglob("*")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)
    child.send_signal(number)
    child.communicate(timeout=60)
    if sign == "SIGKILL":  # nobody can handle it: the next export cleans up
        assert [x.name for x in place.iterdir()] == [f".out.tmp-{child.pid}"]
        assert run(*words).returncode == 0
        assert [x.name for x in place.iterdir()] == ["out"]
        return
    assert child.returncode == 128 + number
    assert [*place.iterdir()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_ended_processes_left_is_removed(
    run: Run, numbers: Path, kind: str, tmp_path: Path
) -> None:
    place, mine = tmp_path / "place", tmp_path / "mine"
    place.mkdir(), mine.mkdir()
    ended = subprocess.Popen(["true"])
    ended.wait()
    (mine / "README.md").write_text("mine")
    kept = [f".out.tmp-{os.getpid()}", f".out.tmp-{ended.pid}x", ".out.tmp-0123456789abcdef"]
    kept += [f".other.tmp-{ended.pid}", f"out.tmp-{ended.pid}", ".out.tmp-"]
    for name in kept:
        (place / name).write_text("kept")
    (place / f".out.tmp-{ended.pid}").symlink_to(mine)
    done = run(*extracting(numbers, kind, place / "out"))
    assert done.returncode == 0, done.stderr
    assert {x.name for x in place.iterdir()} == {*kept, "out"}
    assert (mine / "README.md").read_text() == "mine"
