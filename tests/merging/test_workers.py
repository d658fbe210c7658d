"""Merges in several processes: the same bytes, whatever is merged and whatever happens to them."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hydraopt import merge, read_adapters
from hydraopt.codec import FORMS, SHARED, modes_of
from hydraopt.codec.costs import MEASURES
from hydraopt.errors import NumericalError, WorkerError
from hydraopt.merging import align, passes as portable, workers as engine
from hydraopt.merging.job import legs_of
from hydraopt.merging.passes import Passes, _owners, _threads
from hydraopt.merging.workers import Processes
from tests.marks import slow
from tests.merging.merge_cases import modules_of
from tests.raising import raises


@pytest.fixture(autouse=True)
def small_work_is_worth_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "WORTH", 1)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Processes]:
    """The pools that a test started."""
    pools: list[Processes] = []

    class Noted(Processes):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            pools.append(self)

    monkeypatch.setattr(engine, "Processes", Noted)
    return pools


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def torch_file(folder: Path) -> Path:
    """The same adapter as a pickle."""
    weights = folder / "adapter_model.safetensors"
    held = {key: torch.from_numpy(x) for key, x in load_file(weights).items()}
    torch.save(held, folder / "adapter_model.bin")
    weights.unlink()
    return folder


@pytest.mark.slow  # processes have to start; of two workers a test below asks for the same bytes
@pytest.mark.parametrize("limit", [{"size": "20%"}, {"error": 0.1}, {"size": "30%", "fair": True}])
def test_one_two_and_three_workers_give_the_same_bytes(three, tmp_path, started, limit) -> None:
    made = []
    for workers in (1, 2, 3):
        merge(three, tmp_path / f"{workers}", workers=workers, **limit)
        made.append((tmp_path / f"{workers}").read_bytes())
    assert made[0] == made[1] == made[2]
    assert [pool.size for pool in started] == [2, 3]
    assert all(gone(pid) for pool in started for pid in pool.pids)


class Idle:
    """A pool that only looks as if."""

    def __init__(self, size: int, near: bool) -> None:
        self.size, self.near = size, near

    def hire(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("near", "most"), [(True, 3), (False, 1)])
def test_who_works_alone_uses_the_threads_of_those_that_wait(three, near, most) -> None:
    pieces = align(read_adapters(three), None, lossless=False)
    passes = Passes(pieces, MEASURES["frobenius"], modes_of(FORMS), Idle(3, near))
    legs = list(legs_of(len(pieces.modules)))
    assert len(legs[-1]) == 1
    assert passes._threads[legs[-1][0]] == most
    # All are at work; all others wait from the beginning, or from the middle on, or not so early.
    assert _threads(0.0, 1.0, np.ones(3)) == 1
    assert _threads(0.0, 4.0, np.array([4.0, 0.0, 0.0])) == 3
    assert _threads(0.0, 4.0, np.array([4.0, 2.0])) == 2
    assert _threads(0.0, 4.0, np.array([4.0, 2.1])) == 1
    assert _threads(1.0, 4.0, np.array([5.0, 5.0, 0.0, 0.0])) == 2


def test_streams_are_shared_out_by_what_they_take() -> None:
    owners = _owners(40, 2, frozen=False)
    # The shared stream counts as 12 of the 40: 26 of 52 for each.
    assert (owners.pop(SHARED), list(owners.values()).count(1)) == (1, 14)
    assert list(_owners(4, 2, frozen=True).values()) == [1, 0, 1, 0, 1]
    assert set(_owners(3, 1, frozen=False).values()) == {0}


def test_what_is_sent_has_absolute_paths(three, tmp_path, monkeypatch) -> None:
    """A worker on another machine, or of a cluster that runs, has another current folder."""
    monkeypatch.chdir(three[0].parent)
    (adapter,) = read_adapters([three[0].name])
    (module, *_) = adapter.modules.values()
    assert not module.a.read.path.is_absolute()
    spool = portable.Spool("work")
    sent = spool.portable(module.a)
    assert sent.read.path.is_absolute()
    assert sent.raw() == module.a.raw()
    held = spool.portable(dataclasses.replace(module.a, read=module.a.raw))
    assert held.read.path.is_absolute()
    spool.close()


def test_what_has_no_file_of_its_own_is_sent_as_well(three, tmp_path, started, monkeypatch) -> None:
    monkeypatch.setattr(portable.tempfile, "tempdir", str(tmp_path))
    merge(three, tmp_path / "files", error=0.2, workers=1)
    for folder in three[1:]:
        torch_file(folder)
    merge(read_adapters(three), tmp_path / "pickles", error=0.2, workers=2)
    assert [pool.size for pool in started] == [2]
    assert (tmp_path / "files").read_bytes() == (tmp_path / "pickles").read_bytes()
    assert not list(tmp_path.glob("hydraopt-*"))


def test_what_cannot_be_written_for_the_workers_leaves_no_process(
    three, tmp_path, started, monkeypatch
) -> None:
    monkeypatch.setattr(portable.tempfile, "tempdir", str(tmp_path))

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(portable.Spool, "portable", full)
    with pytest.raises(OSError, match="no space left"):
        merge(read_adapters(three), tmp_path / "out", error=0.2, workers=2)
    assert all(gone(pid) for pool in started for pid in pool.pids)
    assert not list(tmp_path.glob("hydraopt-*"))


def test_passes_that_cannot_be_made_leave_no_process(three, tmp_path, started, monkeypatch) -> None:
    def refuses(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Processes, "hire", refuses)
    with pytest.raises(MemoryError):
        merge(three, tmp_path / "out", error=0.2, workers=2)
    assert len(started) == 1
    assert all(gone(pid) for pid in started[0].pids)


def test_small_work_stays_in_this_process(three, tmp_path, started, monkeypatch) -> None:
    monkeypatch.setattr(portable, "WORTH", 10**9)
    merge(three, tmp_path / "out", error=0.2, workers=2)
    assert started == []


def test_what_a_bundle_decodes_stays_in_this_process(three, tmp_path, started) -> None:
    from hydraopt import shrink

    merge(three, tmp_path / "out", size="60%", workers=1)
    shrink(tmp_path / "out", tmp_path / "less", size="30%", workers=2)
    assert started == []


def test_errors_name_what_they_are_about_and_leave_the_output(
    make_adapter, tmp_path, started
) -> None:
    wrong = modules_of(1)
    wrong["h.1.v"][0][0, 0] = np.nan
    folders = [make_adapter(tmp_path / "a", modules_of(0)), make_adapter(tmp_path / "b", wrong)]
    (tmp_path / "out").write_text("before")
    with raises(
        NumericalError,
        module="h.1.v",
        file="adapter_model.safetensors",
        got="base_model.model.h.1.v.lora_B.weight",
        expected="finite numbers",
    ):
        merge(folders, tmp_path / "out", error=0.2, workers=2)
    assert (tmp_path / "out").read_text() == "before"
    assert all(gone(pid) for pid in started[0].pids)


def killing(monkeypatch: pytest.MonkeyPatch, times: int, method: str) -> list[int]:
    """Kill the second worker when it is first asked for ``method``, so many times."""
    killed: list[int] = []
    call = Processes.call

    def deadly(self: Processes, worker: int, name: str, *arguments: object):
        answer = call(self, worker, name, *arguments)
        if worker == 1 and name == method and len(killed) < times:
            (pid,) = self.pids
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        return answer

    monkeypatch.setattr(Processes, "call", deadly)
    return killed


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [slow("learn"), slow("energies"), slow("bits"), "encode", slow("write"), slow("finish")],
)
def test_a_killed_worker_is_replaced_and_changes_no_byte(
    three, tmp_path, started, monkeypatch, method
) -> None:
    # Bits are asked for where a size is searched.
    merge(three, tmp_path / "one", size="20%", workers=1)
    killed = killing(monkeypatch, 1, method)
    merge(three, tmp_path / "two", size="20%", workers=2)
    assert len(killed) == 1
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.slow  # it takes the start of four; that one is an error, test_pools tells
def test_workers_that_are_killed_again_and_again_are_an_error(
    three, tmp_path, started, monkeypatch
) -> None:
    (tmp_path / "out").write_text("before")
    killed = killing(monkeypatch, 100, "encode")
    with pytest.raises(WorkerError, match=r"worker 1 ended.*signal 9.*--workers"):
        merge(three, tmp_path / "out", error=0.2, workers=2)
    assert len(killed) >= 3
    assert (tmp_path / "out").read_text() == "before"
    assert all(gone(pid) for pid in killed + started[0].pids)


# A process that a shell has put into the background ignores Ctrl-C from its start.
_MERGE = """
import signal, sys, time
print("ran", flush=True)
signal.signal(signal.SIGINT, signal.default_int_handler)
from hydraopt import merge
from hydraopt.merging import workers as engine
from hydraopt.merging import passes as portable

portable.WORTH = 1
def told(stage, done, total):
    if stage != "reading":
        print(*pools[0].pids, flush=True)
        time.sleep(60)
pools = []
class Noted(engine.Processes):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        pools.append(self)
engine.Processes = Noted
merge(sys.argv[2:], sys.argv[1], error=0.2, workers=2, progress=told)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, slow(signal.SIGKILL)])
def test_an_interrupted_merge_leaves_no_process_and_no_output(three, tmp_path, end) -> None:
    script = tmp_path / "script.py"
    script.write_text(_MERGE)
    command = [sys.executable, str(script), str(tmp_path / "out"), *map(str, three)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ran\n"
        (pid,) = map(int, process.stdout.readline().split())
        assert not gone(pid)
        process.send_signal(end)
        process.wait(60)
        assert process.stdout.read() == ""  # the worker did not run the script again
    until = time.monotonic() + 30
    while not gone(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert gone(pid)
    assert not (tmp_path / "out").exists()
