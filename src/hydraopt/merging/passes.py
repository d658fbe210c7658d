"""One pass: every module planned, encoded and written at one price of a bit.

Modules are independent until they meet in the streams, so they are planned and encoded in threads
and written in order; a few modules are in memory at a time. The result does not depend on the
number of threads: each module is computed by one thread, with the BLAS library held to one.
"""

from __future__ import annotations

import functools
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from hydraopt.coding.forms import Mode
from hydraopt.coding.records import check_exponents, write_basis, write_record
from hydraopt.coding.stream import StreamWriter, most_numbers
from hydraopt.compress.core import CoreStore, ModuleCore
from hydraopt.compress.encode import EncodedModule, encode_module
from hydraopt.compress.measure import Measure
from hydraopt.compress.plan import ModulePlan, plan_module
from hydraopt.errors import NumericalError, explain
from hydraopt.linalg.shapes import Array
from hydraopt.progress import Progress, silent

__all__ = ["Course", "Draft", "Passes"]

T = TypeVar("T")

_LEG = 4
"""A pass that has a course mends its price after each 1/_LEG of the modules that are left."""
_FAR = 0.5
"""The most that the logarithm of a price is mended."""


@dataclass(frozen=True)
class Draft:
    """What one pass made.

    shared, streams: coded bytes. errors, energies: (contents, modules), squared norms of dW - dW~
    and of dW, zero where a content lacks the module. forms: how many records have each form.
    price, weights: what it was made at; the average price, if that was mended on the way, and what
    a unit of squared error counted, (contents, modules).
    """

    shared: bytes
    streams: tuple[bytes, ...]
    errors: Array
    energies: Array
    forms: dict[str, int]
    price: float
    weights: Array

    @classmethod
    def empty(cls, weights: Array) -> Draft:
        """Nothing is coded; errors that take as many bytes in a manifest as measured ones do."""
        errors = np.random.default_rng(0).random(weights.shape)
        streams = (b"",) * len(weights)
        return cls(b"", streams, errors, np.ones(weights.shape), {}, math.inf, weights)

    @property
    def coded_bytes(self) -> int:
        return len(self.shared) + sum(map(len, self.streams))

    def relative_errors(self) -> Array:
        """Relative Frobenius error of each content, (contents,)."""
        total = self.energies.sum(axis=1)
        errors: Array = np.sqrt(self.errors.sum(axis=1) / np.where(total > 0, total, 1.0))
        return errors


@dataclass(frozen=True)
class Course:
    """Where a pass should end, and how to steer there.

    bits: what the planner expects of each module, (modules,), at the price that the pass starts
    with. slope: of log bits over log price. wanted: bits that the pass should take in all.
    """

    bits: Array
    slope: float
    wanted: float

    def average(self, price: float, planned: float) -> float:
        """The one price at which the planner would have expected ``planned`` bits."""
        expected = float(self.bits.sum())
        if not (planned > 0 and expected > 0):
            return price
        return price * math.exp(math.log(planned / expected) / self.slope)

    def mended(self, price: float, done: int, planned: float, taken: float) -> float:
        """The price for the modules from ``done`` on, when those before took ``taken`` bits.

        planned: what the planner expected of these, at the prices that they really had.
        """
        rest = float(self.bits[done:].sum())
        if not (planned > 0 and rest > 0):
            return price
        room = max(self.wanted - taken, 1.0) / (taken / planned * rest)
        return price * math.exp(float(np.clip(math.log(room) / self.slope, -_FAR, _FAR)))


def _legs(modules: int) -> Iterator[range]:
    """Long legs first, single modules last: what these miss by is what the pass will miss by."""
    start = 0
    while start < modules:
        stop = start + max((modules - start) // _LEG, 1)
        yield range(start, stop)
        start = stop


def _check_readable(numbers: int, size: int) -> None:
    """Raises NumericalError for streams that readers would refuse as meant to fill the memory."""
    if numbers > most_numbers(size):
        raise NumericalError(
            explain(
                "the streams would stand for more numbers than a reader takes",
                got=f"{numbers:,} numbers in {size:,} bytes",
                expected=f"at most {most_numbers(size):,}",
                do="Ask for a larger size or a smaller error, or use --lossless",
            )
        )


class Passes:
    """Runs passes over one set of modules; keeps what passes have in common.

    contents: the adapter of each stream; modules: the path of each module; both for errors only.
    """

    def __init__(
        self,
        store: CoreStore,
        contents: Sequence[str],
        modules: Sequence[str],
        measure: Measure,
        modes: Sequence[Mode],
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._store = store
        self._adapters = contents
        self._contents = len(contents)
        self._paths = modules
        self._measure = measure
        self._modes = modes
        self._threads = threads or len(os.sched_getaffinity(0))
        self._progress = progress or silent

    def energies(self) -> Array:
        """Squared Frobenius norms, (contents, modules)."""
        energies = np.zeros((self._contents, len(self._store)))

        def one(index: int) -> None:
            core = self._store.core(index)
            for content, s in zip(core.contents, core.s, strict=True):
                energies[content, index] = s @ s

        for done, _ in enumerate(self._map(one, range(len(self._store))), 1):
            self._progress("reading", done, len(self._store))
        return energies

    def estimate(self, price: float, weights: Array) -> Array:
        """Bits that the planner expects of each module at a price; no number is rounded.

        weights: as for :meth:`run`.
        """

        def one(index: int) -> float:
            core = self._store.core(index)
            return self._plan(core, price, weights).bits

        return np.array(list(self._map(one, range(len(self._store)))))

    def _plan(self, core: ModuleCore, price: float, weights: Array) -> ModulePlan:
        own = weights[list(core.contents), core.index].tolist()
        return plan_module(core, own, price, self._measure, self._modes)

    def run(
        self, price: float, weights: Array, stage: str = "coding", course: Course | None = None
    ) -> Draft:
        """Plan, encode and write everything at ``price``.

        weights: what a unit of squared error counts, (contents, modules). With a course the price
        is mended after every few modules, by what they took.
        """

        def one(price: float, index: int) -> tuple[EncodedModule, float]:
            core = self._store.core(index)
            plan = self._plan(core, price, weights)
            return encode_module(core, plan, self._measure), plan.bits

        shared = StreamWriter()
        streams = [StreamWriter() for _ in range(self._contents)]
        errors = np.zeros((self._contents, len(self._store)))
        energies = np.zeros_like(errors)
        forms = Counter[str]()
        bases = False
        shared_numbers, numbers = 0, np.zeros(self._contents, np.int64)
        mended, planned = price, 0.0
        for leg in _legs(len(self._store)) if course else [range(len(self._store))]:
            for module, bits in self._map(functools.partial(one, mended), leg):
                planned += bits
                write_basis(shared, module.left)
                write_basis(shared, module.right)
                bases_here = [x for x in (module.left, module.right) if x is not None]
                here = bool(bases_here)
                bases |= here
                shared_numbers += sum(x.block.levels.size for x in bases_here)
                path = self._paths[module.index]
                for i, content in enumerate(module.contents):
                    record = module.records[i]
                    if record is not None:
                        check_exponents(record.exponents, self._adapters[content], path)
                    write_record(streams[content], record, here)
                    forms[record.mode.form if record else "nothing"] += 1
                    numbers[content] += record.numbers if record else 0
                    errors[content, module.index] = module.errors[i]
                    energies[content, module.index] = module.energies[i]
                self._progress(stage, module.index + 1, len(self._store))
            if course:
                taken = 8 * (shared.size + sum(stream.size for stream in streams))
                mended = course.mended(price, leg.stop, planned, taken)
        coded, own = shared.finish() if bases else b"", [stream.finish() for stream in streams]
        size = len(coded) + sum(map(len, own))
        _check_readable(shared_numbers + int(numbers.sum()), size)
        return Draft(
            coded,
            tuple(own),
            errors,
            energies,
            dict(sorted(forms.items())),
            course.average(price, planned) if course else price,
            weights,
        )

    def _map(self, one: Callable[[int], T], indices: range) -> Iterator[T]:
        """Results in order, computed ahead by at most a few modules."""
        with threadpool_limits(1, user_api="blas"):
            if self._threads == 1:
                yield from map(one, indices)
                return
            with ThreadPoolExecutor(self._threads) as pool:
                waiting: deque[Future[T]] = deque()
                for index in indices:
                    waiting.append(pool.submit(one, index))
                    if len(waiting) > 2 * self._threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
