"""Run work on damaged files in processes with limits, which may die."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import resource
import shutil
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.hostile.exercise import Verdict, exercise_adapter, exercise_bundle

COMMANDS = 4
"""Largest number of commands of a case, which has no answer when all of them exceed their bound."""

QUIET = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
         "MKL_NUM_THREADS": "1"}  # fmt: skip
"""Threads reserve address space, which the limit would count."""


@dataclass(frozen=True)
class Bound:
    """Bound of one command, by the bytes B of its files, as docs/reference/format.md states it.

    constant, factor: memory is ``constant`` + ``factor`` x B bytes. The stated factor of shrink is
        twice as large, for files that stand for more numbers than damaged samples do.
    seconds, per_byte: time of the processor is ``seconds`` + ``per_byte`` x B, since the machine
        may be busy.
    """

    constant: int = 128 << 20
    factor: int = 4096
    seconds: float = 10.0
    per_byte: float = 30e-6

    def memory(self, path: Path) -> int:
        return self.constant + self.factor * size_of(path)

    def time(self, path: Path) -> float:
        return self.seconds + self.per_byte * size_of(path)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [x for x in path.rglob("*") if x.is_file()]
    return sum(x.stat().st_size for x in files)


@dataclass
class Case:
    """A damaged file, and how it came to be.  number: its place in the run."""

    number: int
    kind: str
    mutation: str
    sample: str
    path: Path
    seed: str


def work(pipe: Connection, scratch: Path, base: Path, warm: list[Case], bound: Bound) -> None:
    """Answer each case with (verdict, peak growth in bytes, seconds)."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    for case in warm:  # loads and compiles everything, so that it counts for no case
        for i in range(6):
            _exercise(case, scratch, base, f"warm{i}", bound)
    pipe.send("ready")
    while True:
        case = pipe.recv()
        _reset_peak()
        before, started = _memory("VmHWM"), time.process_time()
        room = _memory("VmSize") + bound.memory(case.path)
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
        try:
            verdict = _exercise(case, scratch, base, case.seed, bound)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        took = time.process_time() - started
        pipe.send((verdict, _memory("VmHWM") - before, took))


def _exercise(case: Case, scratch: Path, base: Path, seed: str, bound: Bound) -> Verdict:
    folder = scratch / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if case.kind == "bundle":
        return exercise_bundle(case.path, folder, base, seed, bound.time(case.path))
    return exercise_adapter(case.path, folder, seed)


def _memory(what: str) -> int:
    """Return bytes of this process, by a name of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) << 10
    raise OSError(f"no {what}")


def _reset_peak() -> None:
    # Where it cannot be reset, the peak is that of all cases so far: stricter still.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Worker:
    """One process, with the case it is at."""

    def __init__(self, scratch: Path, base: Path, warm: list[Case], bound: Bound) -> None:
        context = mp.get_context("spawn")
        self._bound = bound
        self.pipe, other = context.Pipe()
        arguments = (other, scratch, base, warm, bound)
        self._process = context.Process(target=work, args=arguments, daemon=True)
        self._process.start()
        other.close()
        self.case: Case | None = None
        self._until = self._before = self._limit = 0.0
        self.pipe.recv()

    def give(self, case: Case) -> None:
        self.case = case
        self._limit = COMMANDS * self._bound.time(case.path)
        self._until = time.monotonic() + 6 * self._limit
        self._before = self._processor()
        self.pipe.send(case)

    def answer(self) -> tuple[Verdict, int, float] | None:
        """Return what became of the case, None while it runs; the process may have ended."""
        if self.pipe.poll(0):
            try:
                reply: tuple[Verdict, int, float] = self.pipe.recv()
                return reply
            except EOFError:
                self.stop()
                return Verdict("traceback", f"died, exit code {self._process.exitcode}"), 0, 0.0
        used = self._processor() - self._before
        if time.monotonic() < self._until and used < self._limit:
            return None
        self.stop()
        return Verdict("hang", f"no answer in {self._limit:.0f} s"), 0, self._limit

    def _processor(self) -> float:
        """Return the seconds of processor time that the process has taken."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
