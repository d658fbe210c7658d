"""Workers on this machine, in processes of their own, or on a Ray cluster.

They are started anew and not forked, since BLAS does not survive that, and not by
``multiprocessing``, which would run the user's script again. Each has a socket to this process,
which one thread uses: it sends a question, waits for its answer and sends the next one.
"""

from __future__ import annotations

import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Final

from hydraopt.codec import cores
from hydraopt.errors import require
from hydraopt.merging.pool import Answer, Pool, SerialPool, lost

_PATIENCE: Final = 5.0
"""Seconds a worker has to end."""
_ONE_THREAD: Final = "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"
_START: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; from hydraopt.merging.worker import main; main()"
)
"""A worker imports from where this process does, and from nowhere else."""
_Questions = queue.SimpleQueue[tuple[bytes, Future[Any]] | None]


class _Process:
    """Worker process, its socket, and the thread that uses the socket."""

    def __init__(self, number: int) -> None:
        self.number = number
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
            )
        self._connection = Connection(ours.detach())
        self._questions: _Questions = queue.SimpleQueue()
        self._hired: Future[Any] = Future()
        self._lost = ""  # how the worker ended, once that was seen
        self.end = weakref.finalize(self, _end, self._process, self._questions)
        threading.Thread(target=self._converse, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_lost(self) -> bool:
        return bool(self._lost) or self._process.poll() is not None

    def hire(self, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._hired = self._ask(make, arguments)

    def call(self, method: str, arguments: tuple[Any, ...]) -> tuple[Future[Any], Answer]:
        """Return what is done when the answer is there, and the answer."""
        future, hired = self._ask(method, arguments), self._hired

        def result() -> Any:
            hired.result()  # a servant that could not be made is the answer to every call
            return future.result()

        return future, result

    def _ask(self, what: Any, arguments: tuple[Any, ...]) -> Future[Any]:
        future: Future[Any] = Future()
        self._questions.put((pickle.dumps((what, arguments), protocol=5), future))
        return future

    def _converse(self) -> None:
        """Answer questions until the pool is closed; once the worker is lost, with that error."""
        while (question := self._questions.get()) is not None:
            data, future = question
            try:
                if self._lost:
                    raise lost(self.number, self._lost)
                future.set_result(self._answer(data))
            except Exception as error:
                future.set_exception(error)
        self._connection.close()

    def _answer(self, data: bytes) -> Any:
        try:
            self._connection.send_bytes(data)
            answered, value = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            self._lost = _ended(self._process)
            raise lost(self.number, self._lost) from None
        except Exception as error:  # an answer that cannot be read
            self._process.kill()
            self._lost = f"an answer that cannot be read: {type(error).__name__}: {error}"
            raise lost(self.number, self._lost) from None
        if not answered:
            raise value
        return value


def _ended(process: subprocess.Popen[bytes]) -> str:
    """Wait for a process that has closed its socket; return how it ended."""
    try:
        code = process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _end(process: subprocess.Popen[bytes], questions: _Questions) -> None:
    """End a worker that is not needed any more, whatever it does."""
    questions.put(None)
    process.terminate()
    _ended(process)


class Processes(Pool):
    """Pool of this process and ``size - 1`` others, which start at once and may not be ready yet.

    after: called when all have ended.
    """

    near = True

    def __init__(self, size: int, after: Callable[[], None] = lambda: None) -> None:
        self.size, self._after = size, after
        self._own = SerialPool()
        self._others = [_Process(number) for number in range(1, size)]
        self._servant: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    @property
    def pids(self) -> list[int]:
        """Process ids of the other processes."""
        return [process.pid for process in self._others]

    def hire(self, make: Callable[..., Any], *arguments: Any) -> None:
        self._servant = make, arguments
        self._own.hire(make, *arguments)
        for process in self._others:
            process.hire(make, arguments)

    def call(self, worker: int, method: str, *arguments: Any) -> Answer:
        if worker == 0:
            return self._own.call(0, method, *arguments)
        future, answer = self._others[worker - 1].call(method, arguments)

        def result() -> Any:
            self._own.work_until(future)
            return answer()

        return result

    def revive(self) -> list[int]:
        assert self._servant is not None
        self._own.revive()
        gone = []
        for i, process in enumerate(self._others):
            if process.is_lost:
                process.end()
                self._others[i] = _Process(process.number)
                self._others[i].hire(*self._servant)
                gone.append(process.number)
        return gone

    def close(self) -> None:
        self._own.close()
        for process in self._others:
            process.end()
        self._after()


@dataclass(frozen=True)
class Local:
    """Engine of this process and others on the same machine.

    workers: maximum number; by default one for each core.
    work: folder for intermediate results, from which an interrupted job continues.
    memory: bytes that each worker may keep between passes.

    work and memory change no result.
    """

    workers: int | None = None
    work: Path | None = None
    memory: int | None = None
    remote: ClassVar[bool] = False

    def most(self) -> int:
        """Return the maximum number of workers."""
        if os.name == "nt":  # a socket cannot be handed to another process as it is elsewhere
            return 1
        return cores() if self.workers is None else self.workers

    def pool(self, size: int, after: Callable[[], None]) -> Pool:
        """Return a pool of that size. after: called when the pool is closed."""
        return Processes(size, after) if size > 1 else SerialPool()


@dataclass(frozen=True)
class OnRay:
    """Engine of actors in a Ray cluster; small work goes there, too.

    address: address of a running cluster; by default one is started on this machine, and stopped.
    workers: number of workers; by default one for each core of the cluster.
    work, memory: as of Local; the folder is visible to all workers.
    """

    address: str | None = None
    workers: int | None = None
    work: Path | None = None
    memory: int | None = None
    remote: ClassVar[bool] = True

    def most(self) -> int:
        """Return the maximum number of workers."""
        require("ray")
        from hydraopt.merging.rayworkers import connect, cpus

        connect(self.address)
        return self.workers or cpus()

    def pool(self, size: int, after: Callable[[], None]) -> Pool:
        """Return a pool of that size. after: called when the pool is closed."""
        from hydraopt.merging.rayworkers import RayPool, connect

        connect(self.address)
        return RayPool(size, after)


Engine = Local | OnRay
