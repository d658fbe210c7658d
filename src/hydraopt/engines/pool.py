"""Interface of every engine: workers that hold a servant each, and answer calls to it.

A servant is an object of the caller's own. Calls to one worker are answered in the order in which
they were made, so a servant may keep what it has read or written from one call to the next. What a
method gives back may have parts, which are large and go to another worker's servant: they are named
and passed on, and whoever made the call need not hold them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from hydraopt.errors import HydraoptError, WorkerError, explain

__all__ = ["Closing", "PendingResult", "Pool", "SerialPool", "WorkerLostError", "lost"]


class Closing:
    """Base class of objects that a ``with`` block closes at its end."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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


class PendingResult(Protocol):
    """Future result of a call."""

    def result(self) -> Any:
        """Wait for and return the method's result, or its first element if the call has parts.

        Raises what the method raised, and WorkerLostError.
        """
        ...

    def part(self, number: int) -> Any:
        """Return a part, as an argument of another call. Only after :meth:`result`."""
        ...


class Pool(Protocol):
    """Workers 0 to size - 1. Leaving the ``with`` block ends them, whatever they do."""

    @property
    def size(self) -> int: ...

    @property
    def near(self) -> bool:
        """True if all workers are on this machine, so that one can use the cores of idle ones."""
        ...

    def hire(self, make: Callable[..., Any], *arguments: Any) -> None:
        """Give every worker a servant: ``make(*arguments)``, importable by name."""
        ...

    def call(self, worker: int, method: str, *arguments: Any, parts: int = 0) -> PendingResult:
        """Have a worker's servant run a method, which with parts returns (result, part, ...)."""
        ...

    def revive(self) -> list[int]:
        """Replace lost workers, with new servants; return the numbers of the replaced workers.

        The other workers may forget questions that they have not answered.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class _Given:
    """Result computed when it, or a later one, is requested."""

    def __init__(
        self, pool: SerialPool, method: str, arguments: tuple[Any, ...], parts: int
    ) -> None:
        self._pool, self._method, self._arguments, self._parts = pool, method, arguments, parts
        self._value: Any = None
        self._error: BaseException | None = None
        self.done = False

    def run(self, servant: Any) -> None:
        try:
            self._value = getattr(servant, self._method)(*self._arguments)
        except HydraoptError as error:
            self._error = error
        self._arguments, self.done = (), True

    def result(self) -> Any:
        while not self.done:
            self._pool.step()
        if self._error is not None:
            raise self._error
        return self._value[0] if self._parts else self._value

    def part(self, number: int) -> Any:
        return self._value[1 + number]


class SerialPool(Closing):
    """Pool whose one worker is this process. It works when a caller waits."""

    size, near = 1, True

    def __init__(self) -> None:
        self._waiting: list[_Given] = []
        self._servant: Any = None

    def hire(self, make: Callable[..., Any], *arguments: Any) -> None:
        self._servant = make(*arguments)

    def call(self, worker: int, method: str, *arguments: Any, parts: int = 0) -> PendingResult:
        answer = _Given(self, method, arguments, parts)
        self._waiting.append(answer)
        return answer

    @property
    def idle(self) -> bool:
        """True if no call is waiting."""
        return not self._waiting

    def step(self) -> None:
        """Run the oldest waiting call."""
        self._waiting.pop(0).run(self._servant)

    def revive(self) -> list[int]:
        self._waiting.clear()
        return []

    def close(self) -> None:
        self._waiting.clear()
        self._servant = None
