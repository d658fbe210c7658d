"""Engines: where the workers of a job come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from hydraopt.engines.pool import Pool, SerialPool
from hydraopt.engines.processes import Processes, Started
from hydraopt.extras import require
from hydraopt.threads import cores

__all__ = ["Engine", "Local", "OnRay"]


class Engine(Protocol):
    """Source of worker pools.

    work: folder for intermediate results, visible to all workers, from which an interrupted job
        continues.
    memory: bytes that each worker may keep between passes.
    Neither changes a result.
    """

    @property
    def work(self) -> Path | None: ...

    @property
    def memory(self) -> int | None: ...

    def most(self) -> int:
        """Return the maximum number of workers."""
        ...

    def pool(self, size: int, after: Callable[[], None]) -> Pool:
        """Return a pool of that size. after: called when the pool is closed."""
        ...

    def ahead(self, size: int) -> AbstractContextManager[Engine]:
        """Return the engine with its next pool, of about that size, starting in the background."""
        ...

    @property
    def remote(self) -> bool:
        """True if even a single worker runs elsewhere, so that small work goes there too."""
        ...


@dataclass(frozen=True)
class Local:
    """Engine of this process and others on the same machine.

    workers: maximum number; by default one for each core.
    started: processes that its pool takes.
    """

    workers: int | None = None
    work: Path | None = None
    memory: int | None = None
    started: Started | None = field(default=None, repr=False, compare=False)
    remote = False

    def most(self) -> int:
        if os.name == "nt":  # a socket cannot be handed to another process as it is elsewhere
            return 1
        return cores() if self.workers is None else self.workers

    def pool(self, size: int, after: Callable[[], None]) -> Pool:
        return Processes(size, after, self.started) if size > 1 else SerialPool()

    @contextmanager
    def ahead(self, size: int) -> Iterator[Engine]:
        with Started(size - 1) as started:
            yield replace(self, started=started)


@dataclass(frozen=True)
class OnRay:
    """Engine of actors in a Ray cluster.

    address: address of a running cluster; by default one is started on this machine, and stopped.
    workers: number of workers; by default one for each core of the cluster.
    """

    address: str | None = None
    workers: int | None = None
    work: Path | None = None
    memory: int | None = None
    remote = True

    def most(self) -> int:
        require("ray")
        from hydraopt.engines.rayengine import connect, cpus

        connect(self.address)
        return self.workers or cpus()

    def pool(self, size: int, after: Callable[[], None]) -> Pool:
        from hydraopt.engines.rayengine import RayPool, connect

        connect(self.address)
        return RayPool(size, after)

    def ahead(self, size: int) -> AbstractContextManager[Engine]:
        return nullcontext(self)
