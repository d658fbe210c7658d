"""One pass: every module planned, encoded and written at one price of a bit.

Modules are independent until they meet in the streams, so they are planned and encoded in threads
and written in order; a few modules are in memory at a time. The result does not depend on the
number of threads: each module is computed by one thread, with the BLAS library held to one.
"""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from hydraopt.coding.stream import StreamWriter
from hydraopt.core import CoreStore
from hydraopt.encode import EncodedModule, encode_module
from hydraopt.measure import Measure
from hydraopt.parts import Mode, write_basis, write_parts
from hydraopt.plan import plan_module
from hydraopt.types import Array

__all__ = ["Draft", "Passes", "Progress"]

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with a stage, units done, units in all."""


@dataclass(frozen=True)
class Draft:
    """What one pass made.

    shared, streams: coded bytes. errors, energies: (contents, modules), squared norms of dW - dW~
    and of dW, zero where a content lacks the module. forms: how many records have each form.
    price, weights: what it was made at.
    """

    shared: bytes
    streams: tuple[bytes, ...]
    errors: Array
    energies: Array
    forms: dict[str, int]
    price: float
    weights: Array

    @classmethod
    def empty(cls, weights: Array, modules: int) -> Draft:
        """What is made where nothing pays; every error is 1."""
        ones = np.ones((weights.size, modules))
        return cls(b"", (b"",) * weights.size, ones, ones, {}, math.inf, weights)

    @property
    def coded_bytes(self) -> int:
        return len(self.shared) + sum(map(len, self.streams))

    def relative_errors(self) -> Array:
        """Relative Frobenius error of each content, (contents,)."""
        total = self.energies.sum(axis=1)
        errors: Array = np.sqrt(self.errors.sum(axis=1) / np.where(total > 0, total, 1.0))
        return errors


class Passes:
    """Runs passes over one set of modules; keeps what passes have in common."""

    def __init__(
        self,
        store: CoreStore,
        contents: int,
        measure: Measure,
        modes: Sequence[Mode],
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._store = store
        self._contents = contents
        self._measure = measure
        self._modes = modes
        self._threads = threads or len(os.sched_getaffinity(0))
        self._progress = progress or (lambda stage, done, total: None)

    def energies(self) -> Array:
        """Squared Frobenius norms, (contents, modules)."""
        energies = np.zeros((self._contents, len(self._store)))

        def one(index: int) -> None:
            core = self._store.core(index)
            for content, s in zip(core.contents, core.s, strict=True):
                energies[content, index] = s @ s

        for done, _ in enumerate(self._map(one), 1):
            self._progress("reading", done, len(self._store))
        return energies

    def estimate(self, price: float, weights: Array) -> float:
        """Bits that the planner expects at a price; no number is rounded."""

        def one(index: int) -> float:
            core = self._store.core(index)
            shares = [float(weights[c]) for c in core.contents]
            return plan_module(core, shares, price, self._measure, self._modes).bits

        return sum(self._map(one))

    def run(self, price: float, weights: Array, stage: str = "coding") -> Draft:
        """Plan, encode and write everything at ``price``, with a weight for each content."""

        def one(index: int) -> EncodedModule:
            core = self._store.core(index)
            shares = [float(weights[c]) for c in core.contents]
            plan = plan_module(core, shares, price, self._measure, self._modes)
            return encode_module(core, plan, self._measure)

        shared = StreamWriter()
        streams = [StreamWriter() for _ in range(self._contents)]
        errors = np.zeros((self._contents, len(self._store)))
        energies = np.zeros_like(errors)
        forms = Counter[str]()
        bases = False
        for done, module in enumerate(self._map(one), 1):
            bases |= module.left is not None or module.right is not None
            write_basis(shared, module.left)
            write_basis(shared, module.right)
            here = module.left is not None or module.right is not None
            for i, content in enumerate(module.contents):
                record = module.records[i]
                write_parts(streams[content], record, here)
                forms[record.mode.form if record else "nothing"] += 1
                errors[content, module.index] = module.errors[i]
                energies[content, module.index] = module.energies[i]
            self._progress(stage, done, len(self._store))
        return Draft(
            shared.finish() if bases else b"",
            tuple(stream.finish() for stream in streams),
            errors,
            energies,
            dict(sorted(forms.items())),
            price,
            weights,
        )

    def _map(self, one: Callable[[int], T]) -> Iterator[T]:
        """Results in order, computed ahead by at most a few modules."""
        with threadpool_limits(1, user_api="blas"):
            if self._threads == 1:
                yield from map(one, range(len(self._store)))
                return
            with ThreadPoolExecutor(self._threads) as pool:
                waiting: deque[Future[T]] = deque()
                for index in range(len(self._store)):
                    waiting.append(pool.submit(one, index))
                    if len(waiting) > 2 * self._threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
