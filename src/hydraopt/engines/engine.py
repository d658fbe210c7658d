"""Engines: where the workers of a job come from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hydraopt.engines.pool import Pool, SerialPool
from hydraopt.engines.processes import Processes
from hydraopt.extras import require
from hydraopt.threads import cores

__all__ = ["Engine", "Local", "OnRay"]


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
        from hydraopt.engines.rayengine import connect, cpus

        connect(self.address)
        return self.workers or cpus()

    def pool(self, size: int, after: Callable[[], None]) -> Pool:
        """Return a pool of that size. after: called when the pool is closed."""
        from hydraopt.engines.rayengine import RayPool, connect

        connect(self.address)
        return RayPool(size, after)


Engine = Local | OnRay
