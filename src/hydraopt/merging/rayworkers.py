"""Workers on a Ray cluster, one actor each; the only file that imports ray.

What a lost node had is asked for again: answers follow from the questions, so nothing has to be
rebuilt by Ray.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

import ray
from ray.exceptions import RayError, RayTaskError

from hydraopt.codec import one_blas_thread
from hydraopt.errors import UsageError, WorkerError, explain
from hydraopt.merging.pool import Answer, Pool, lost

_PATIENCE: Final = 60.0
"""Seconds in which a live worker must respond, once it has finished its earlier calls."""
_START: Final = 120.0
"""Seconds in which all workers of a pool must start on a cluster that has cores for them."""


_PROBE: Final = 10.0
"""Seconds in which an address must be resolved and accept a connection."""
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


_ours: list[bool] = []
"""Not empty while Ray runs because :func:`connect` started or joined it."""


def connect(address: str | None) -> None:
    """Connect to a cluster, or start one of this machine's cores, unless that was done before.

    Raises UsageError where there is none at ``address``, or none can be started.
    """
    if ray.is_initialized():
        return
    _check_listens(address or os.environ.get("RAY_ADDRESS", ""))
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            include_dashboard=None if address else False,
        )
    except Exception as error:  # Ray raises that itself, where a node does not come up
        what = "there is no Ray cluster at that address" if address else "Ray does not start"
        raise UsageError(
            explain(
                what,
                got=f"{address or 'this machine'}: {str(error)[:200]}",
                do="Start one with `ray start --head`, and give the address auto",
            )
        ) from error
    _ours.append(True)


def _check_listens(address: str) -> None:
    """Raise UsageError if nothing accepts a connection at HOST:PORT; Ray would try for minutes.

    Other addresses, such as "auto", are left to Ray.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal():
        return
    hosts, errors = [host], list[str]()
    if host in _LOOPBACK:  # Ray takes the machine's own address for it
        hosts.append(ray.util.get_node_ip_address())
    listens = threading.Event()

    def probe() -> None:
        for one in hosts:
            try:
                socket.create_connection((one, int(port)), _PROBE / len(hosts)).close()
            except (OSError, OverflowError, ValueError) as error:
                errors.append(str(error))
            else:
                listens.set()
                return

    # Nothing bounds the time in which a name is looked up.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE)
    if not listens.is_set():
        raise UsageError(
            explain(
                "there is no Ray cluster at that address",
                got=f"{address[:200]}: {errors[0] if errors else f'no answer in {_PROBE:.0f} s'}",
                do="Start one with `ray start --head`, and give its address or auto",
            )
        )


def _disconnect() -> None:
    if _ours:
        _ours.clear()
        ray.shutdown()


def cpus() -> int:
    """Return the number of cores of the cluster."""
    return max(int(ray.cluster_resources().get("CPU", 1)), 1)


class _Actor:
    """Ray actor that runs one worker."""

    def __init__(self, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._limit = one_blas_thread()
        self._servant = make(*arguments)

    def run(self, method: str, *arguments: Any) -> Any:
        return getattr(self._servant, method)(*arguments)

    def lives(self) -> bool:
        return True

    def pid(self) -> int:
        return os.getpid()


class RayPool(Pool):
    """``size`` actors, spread over the nodes of the cluster that is connected.

    after: called when all have ended. What :func:`connect` connected ends with the pool.
    """

    near = False

    def __init__(self, size: int, after: Callable[[], None] = lambda: None) -> None:
        self.size, self._after = size, after
        self._actors: list[Any] = []
        self._servant: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def _start(self) -> Any:
        assert self._servant is not None
        made = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_Actor)
        return made.remote(*self._servant)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers, each on its own node."""
        pids: list[int] = ray.get([actor.pid.remote() for actor in self._actors])
        return pids

    def hire(self, make: Callable[..., Any], *arguments: Any) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._servant = make, arguments
        self._actors = [self._start() for _ in range(self.size)]
        self._check_started()

    def _check_started(self) -> None:
        """Wait for all workers. Raise WorkerError if the cluster has no core for one.

        Ray would wait for it without end and without a message.
        """
        replies = [actor.lives.remote() for actor in self._actors]
        ready, waiting = ray.wait(replies, num_returns=len(replies), timeout=_START)
        if waiting:
            free = int(ray.available_resources().get("CPU", 0))
            raise WorkerError(
                explain(
                    "the Ray cluster has no core for a worker",
                    got=f"{len(ready)} of {self.size} workers after {_START:.0f} s; "
                    f"{free} of {cpus()} cores are free",
                    expected="a free core for each worker",
                    do="Wait until other jobs have ended, or give --workers a smaller number",
                )
            )

    def call(self, worker: int, method: str, *arguments: Any) -> Answer:
        reference = self._actors[worker].run.remote(method, *arguments)

        def result() -> Any:
            try:
                return ray.get(reference)
            except RayTaskError as error:
                raise error.cause from error
            except RayError as error:
                raise lost(worker, type(error).__name__) from None

        return result

    def revive(self) -> list[int]:
        replies = [actor.lives.remote() for actor in self._actors]
        gone = []
        for worker, reference in enumerate(replies):
            try:
                ray.get(reference, timeout=_PATIENCE)
            except RayError:
                ray.kill(self._actors[worker])
                self._actors[worker] = self._start()
                gone.append(worker)
        self._check_started()
        return gone

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        _disconnect()
        self._after()
