"""Workers on this machine: this process is the first, the others are processes of their own.

They are started anew and not forked, since BLAS and numba do not survive that, and not by
``multiprocessing``, which would run the user's script again. Each has a socket to this process; a
thread for each direction keeps it from ever waiting for a worker that waits for it.
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
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any, Final

from hydraopt.engines.pool import Closing, PendingResult, SerialPool, lost
from hydraopt.engines.worker import ANSWER, CALL, HIRE

__all__ = ["Processes", "Started"]

_PATIENCE: Final = 5.0
"""Seconds a worker has to end."""
_ONE_THREAD: Final = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_START: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; from hydraopt.engines.worker import main; main()"
)
"""A worker imports from where this process does, and from nowhere else."""
_Queue = queue.SimpleQueue[bytes | None]


class _Process:
    """Worker process, its socket, and its outstanding answers."""

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
        self._owed: deque[Future[Any]] = deque()
        self._out: _Queue = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.is_lost = False
        end = weakref.finalize(self, _end, self._process, self._out)
        self.end = end
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()
        threading.Thread(target=self._receive, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def post(self, what: int, name: Any, arguments: tuple[Any, ...]) -> Future[Any]:
        """Send a message; the answer to a call, if it is one."""
        # The kind is beside the pickle: a worker that cannot read this knows whether to answer.
        data = bytes([what]) + pickle.dumps((name, arguments), protocol=5)
        future: Future[Any] = Future()
        with self._lock:
            if self.is_lost:
                future.set_exception(lost(self.number, "no process any more"))
                return future
            if what == CALL:
                self._owed.append(future)
            self._out.put(data)
        return future

    def _send(self) -> None:
        while (data := self._out.get()) is not None:
            try:
                self._connection.send_bytes(data)
            except OSError:
                return  # Whoever receives sees that it is gone.

    def _receive(self) -> None:
        try:
            while True:
                what, value = pickle.loads(self._connection.recv_bytes())
                with self._lock:
                    future = self._owed.popleft()
                if what == ANSWER:
                    future.set_result(value)
                else:
                    future.set_exception(value)
        except (EOFError, OSError):
            self._gone("")
        except (
            Exception
        ) as error:  # an answer that cannot be read leaves later ones without a place
            self._process.kill()
            self._gone(f"an answer that cannot be read: {type(error).__name__}: {error}")

    def _gone(self, why: str) -> None:
        """Fail all pending answers. why: reason, if not the process's exit status."""
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = why or (f"signal {-code}" if code < 0 else f"exit status {code}")
        with self._lock:
            self.is_lost = True
            owed, self._owed = self._owed, deque()
        for future in owed:
            future.set_exception(lost(self.number, how))
        self._out.put(None)
        # Who is still sending would write to whatever has the number of the socket next.
        self._sender.join()
        self._connection.close()


def _end(process: subprocess.Popen[bytes], out: _Queue) -> None:
    """End a worker that is not needed any more, whatever it does."""
    out.put(None)
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Sent:
    """Answer from another process."""

    def __init__(self, pool: Processes, future: Future[Any], parts: int) -> None:
        self._pool, self._future, self._parts = pool, future, parts

    def result(self) -> Any:
        self._pool.work_until(self._future)
        value = self._future.result()
        return value[0] if self._parts else value

    def part(self, number: int) -> Any:
        return self._future.result()[1 + number]


class Started(Closing):
    """``count`` processes that start before a pool exists to take them.

    Closing ends the processes that no pool took.
    """

    def __init__(self, count: int) -> None:
        self._waiting = [_Process(number) for number in range(1, count + 1)]

    def take(self, number: int) -> _Process:
        """Return the worker of this number; workers are taken in order, from 1 on."""
        return self._waiting.pop(0) if self._waiting else _Process(number)

    def close(self) -> None:
        for process in self._waiting:
            process.end()
        self._waiting.clear()


class Processes(Closing):
    """Pool of this process and ``size - 1`` others, which start at once and may not be ready yet.

    after: called when all have ended. started: those that have started already.
    """

    near = True

    def __init__(
        self,
        size: int,
        after: Callable[[], None] = lambda: None,
        started: Started | None = None,
    ) -> None:
        self.size, self._after = size, after
        self._own = SerialPool()
        make = _Process if started is None else started.take
        self._others = [make(number) for number in range(1, size)]
        self._servant: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    @property
    def pids(self) -> list[int]:
        """Process ids of the other processes."""
        return [process.pid for process in self._others]

    def hire(self, make: Callable[..., Any], *arguments: Any) -> None:
        self._servant = make, arguments
        self._own.hire(make, *arguments)
        for process in self._others:
            process.post(HIRE, make, arguments)

    def call(self, worker: int, method: str, *arguments: Any, parts: int = 0) -> PendingResult:
        if worker == 0:
            return self._own.call(0, method, *arguments, parts=parts)
        future = self._others[worker - 1].post(CALL, method, arguments)
        return _Sent(self, future, parts)

    def work_until(self, future: Future[Any]) -> None:
        """Run this process's own work until another process's answer arrives."""
        while not future.done() and not self._own.idle:
            self._own.step()

    def revive(self) -> list[int]:
        assert self._servant is not None
        self._own.revive()
        gone = []
        for i, process in enumerate(self._others):
            if process.is_lost:
                process.end()
                self._others[i] = _Process(process.number)
                self._others[i].post(HIRE, *self._servant)
                gone.append(process.number)
        return gone

    def close(self) -> None:
        self._own.close()
        for process in self._others:
            process.end()
        self._after()
