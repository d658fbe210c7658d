"""Interface of every engine: workers that hold a servant each, and answer calls to it.

A servant is an object of the caller's own. Calls to one worker are answered in the order in which
they were made, so a servant may keep what it has read or written from one call to the next.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Self

from hydraopt.errors import WorkerError, explain

Answer = Callable[[], Any]
"""Waits for what a call returns. Raises what the call raised, and WorkerLostError."""


class Closing(AbstractContextManager["Closing"]):
    """Base class of objects that a ``with`` block closes at its end."""

    @abstractmethod
    def close(self) -> None:
        """End what the object holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class WorkerLostError(WorkerError):
    """Loss of a worker during a call; :meth:`Pool.revive` replaces the worker."""


def lost(worker: int, how: object) -> WorkerLostError:
    """Return the error about a worker that ended by itself."""
    return WorkerLostError(
        explain(
            f"worker {worker} ended before it had answered",
            got=how,
            do="If the machine was short of memory, give --workers a smaller number",
        )
    )


class Pool(Closing):
    """Workers 0 to size - 1. Leaving the ``with`` block ends them, whatever they do.

    near: whether all workers are on this machine, so that one can use the cores of idle ones.
    """

    size: int
    near: bool

    @abstractmethod
    def hire(self, make: Callable[..., Any], *arguments: Any) -> None:
        """Give every worker a servant: ``make(*arguments)``, importable by name."""

    @abstractmethod
    def call(self, worker: int, method: str, *arguments: Any) -> Answer:
        """Have a worker's servant run a method."""

    @abstractmethod
    def revive(self) -> list[int]:
        """Replace lost workers, with new servants; return the numbers of the replaced workers.

        The other workers may forget questions that they have not answered.
        """


class SerialPool(Pool):
    """Pool whose one worker is this process. It works when a caller waits."""

    size, near = 1, True

    def __init__(self) -> None:
        self._waiting: list[tuple[Future[Any], str, tuple[Any, ...]]] = []
        self._servant: Any = None

    def hire(self, make: Callable[..., Any], *arguments: Any) -> None:
        self._servant = make(*arguments)

    def call(self, worker: int, method: str, *arguments: Any) -> Answer:
        future: Future[Any] = Future()
        self._waiting.append((future, method, arguments))
        return functools.partial(self._result, future)

    def _result(self, future: Future[Any]) -> Any:
        self.work_until(future)
        return future.result()

    def work_until(self, future: Future[Any]) -> None:
        """Run waiting calls, the oldest first, until a future is done or none is left."""
        while self._waiting and not future.done():
            own, method, arguments = self._waiting.pop(0)
            try:
                own.set_result(getattr(self._servant, method)(*arguments))
            except Exception as error:
                own.set_exception(error)

    def revive(self) -> list[int]:
        self._waiting.clear()
        return []

    def close(self) -> None:
        self._waiting.clear()
        self._servant = None
