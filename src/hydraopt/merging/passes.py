"""One pass: every module and coded tensor planned, encoded and written at one price of a bit.

Both are items here, modules first. Items are independent until they meet in the streams, so they
are planned and encoded in threads and written in order; a few are in memory at a time. The result
does not depend on the number of threads: each item is computed by one thread, with the BLAS library
held to one.
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

from hydraopt.coding.chunks import ChunkWriter
from hydraopt.coding.dense import DenseRecord, write_dense
from hydraopt.coding.forms import Mode
from hydraopt.coding.records import write_basis, write_record
from hydraopt.coding.stream import most_numbers
from hydraopt.compress.core import CoreStore, ModuleCore
from hydraopt.compress.dense import EncodedTensor, Given, encode_tensor, estimate_tensor
from hydraopt.compress.encode import EncodedModule, encode_module
from hydraopt.compress.measure import Measure
from hydraopt.compress.plan import ModulePlan, plan_module
from hydraopt.errors import NumericalError, explain
from hydraopt.linalg.basis import Bases
from hydraopt.linalg.shapes import Array
from hydraopt.merging.align import MergeSet
from hydraopt.merging.dense import TensorMatrices
from hydraopt.merging.frozen import MiddlePrice
from hydraopt.merging.weights import Counting, middle_price
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

    shared, streams: coded bytes. errors, energies: (contents, items), squared norms of dW - dW~
    and of dW, zero where a content lacks the item. forms: how many records have each form.
    price, weights: what it was made at; the average price, if that was mended on the way, and what
    a unit of squared error counted, (contents, items). counting: what errors mean to a task.
    middle: what the price comes to for a task of the middle size.
    """

    shared: bytes
    streams: tuple[bytes, ...]
    errors: Array
    energies: Array
    forms: dict[str, int]
    price: float
    weights: Array
    counting: Counting
    middle: MiddlePrice | None = None

    @classmethod
    def empty(cls, weights: Array, counting: Counting) -> Draft:
        """Nothing is coded; errors and a price that take as many bytes in a manifest as those of a
        pass do."""
        errors = np.random.default_rng(0).random(weights.shape)
        ones, middle = np.ones(weights.shape), MiddlePrice(1.23456e-08, 1.23456)
        streams = (b"",) * len(weights)
        return cls(b"", streams, errors, ones, {}, math.inf, weights, counting, middle)

    @property
    def coded_bytes(self) -> int:
        return len(self.shared) + sum(map(len, self.streams))

    def relative_errors(self) -> Array:
        """Relative error of each content, (contents,), everything that is coded counted."""
        return self.counting.errors(self.errors)


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


class _Written:
    """The streams of a pass while they are written.

    frozen: what is shared is there already, and is not written. errors, energies, forms: as a
    Draft's.
    """

    def __init__(self, contents: int, items: int, frozen: bool) -> None:
        self._frozen = frozen
        self._shared = ChunkWriter()
        self._streams = [ChunkWriter() for _ in range(contents)]
        self._has_shared = False
        self._numbers = 0
        self.errors = np.zeros((contents, items))
        self.energies = np.zeros_like(self.errors)
        self.forms = Counter[str]()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._shared.size + sum(stream.size for stream in self._streams)

    def module(self, module: EncodedModule, path: str, adapters: Sequence[str]) -> None:
        """Append a module. path, adapters (of each content): for errors."""
        bases = [x for x in (module.left, module.right) if x is not None]
        for basis in bases:
            basis.block.check(module=path)
        if not self._frozen:
            write_basis(self._shared, module.left)
            write_basis(self._shared, module.right)
            self._ended(self._shared, sum(x.block.levels.size for x in bases))
            self._has_shared |= bool(bases)
        for i, content in enumerate(module.contents):
            record = module.records[i]
            if record is not None:
                record.check(adapters[content], path)
            write_record(self._streams[content], record, module.has_bases)
            self._ended(self._streams[content], record.numbers if record else 0)
            self.forms[record.mode.form if record else "nothing"] += 1
            self.errors[content, module.index] = module.errors[i]
            self.energies[content, module.index] = module.energies[i]

    def tensor(
        self, index: int, encoded: EncodedTensor, tensor: TensorMatrices, adapters: Sequence[str]
    ) -> None:
        """Append a coded tensor, the item of that index."""
        whole = math.prod(tensor.shape)
        common = DenseRecord(rest=encoded.common)
        common.check(module=tensor.entry.key)
        if not self._frozen:
            write_dense(self._shared, common)
            self._ended(self._shared, common.numbers(whole, bounded=True))
            self._has_shared |= encoded.common is not None
        for i, content in enumerate(tensor.contents):
            record = encoded.records[i]
            record.check(adapters[content], tensor.entry.key)
            write_dense(self._streams[content], record)
            self._ended(self._streams[content], record.numbers(whole, tensor.own is not None))
            self.errors[content, index] = encoded.errors[i]
            self.energies[content, index] = encoded.energies[i]

    def _ended(self, stream: ChunkWriter, numbers: int) -> None:
        stream.end_record(numbers)
        self._numbers += numbers

    def finish(self) -> tuple[bytes, tuple[bytes, ...]]:
        """Shared and task streams. Raises NumericalError for what no reader would take."""
        shared = self._shared.finish() if self._has_shared else b""
        streams = tuple(stream.finish() for stream in self._streams)
        _check_readable(self._numbers, len(shared) + sum(map(len, streams)))
        return shared, streams


class Passes:
    """Runs passes over one set of modules and tensors; keeps what passes have in common.

    store: the cores of the modules of ``pieces``.
    """

    def __init__(
        self,
        store: CoreStore,
        pieces: MergeSet,
        measure: Measure,
        modes: Sequence[Mode],
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._store = store
        self._adapters = pieces.owners
        self._contents = pieces.contents
        self._paths = [module.path for module in pieces.modules]
        self._tensors = pieces.matrices
        self._items = len(store) + len(self._tensors)
        self._core = pieces.core
        self._measure = measure
        self._modes = modes
        self._threads = threads or len(os.sched_getaffinity(0))
        self._progress = progress or silent

    def energies(self) -> Array:
        """Squared Frobenius norms, (contents, items)."""
        energies = np.zeros((self._contents, self._items))

        def one(index: int) -> None:
            if index >= len(self._store):
                tensor = self._tensors[index - len(self._store)]
                energies[list(tensor.contents), index] = tensor.squared_norms()
                return
            core = self._store.core(index)
            for content, s in zip(core.contents, core.s, strict=True):
                energies[content, index] = s @ s

        for done, _ in enumerate(self._map(one, range(self._items)), 1):
            self._progress("reading", done, self._items)
        return energies

    def estimate(self, price: float, weights: Array) -> Array:
        """Bits that the planner expects of each item at a price; no number is rounded.

        weights: as for :meth:`run`.
        """

        def one(index: int) -> float:
            if index >= len(self._store):
                tensor, own = self._tensor(index, weights)
                shared = self._common(index)
                return estimate_tensor(tensor.read, tensor.shape, own, price, shared)
            return self._plan(self._store.core(index), price, weights).bits

        return np.array(list(self._map(one, range(self._items))))

    def _tensor(self, index: int, weights: Array) -> tuple[TensorMatrices, list[float]]:
        """A coded tensor, by the number of its item, and what errors of its tasks count."""
        tensor = self._tensors[index - len(self._store)]
        return tensor, weights[list(tensor.contents), index].tolist()

    def _plan(self, core: ModuleCore, price: float, weights: Array) -> ModulePlan:
        own = weights[list(core.contents), core.index].tolist()
        given = self._given(core.index)
        return plan_module(core, own, price, self._measure, self._modes, given)

    def _given(self, index: int) -> Bases | None:
        """The bases of a module that are there already."""
        return None if self._core is None else self._core.bases[index]

    def _common(self, index: int) -> Given | None:
        """What is shared already of the coded tensor that is the item of that index."""
        if self._core is None:
            return None
        return Given(self._core.commons[index - len(self._store)])

    def run(
        self,
        price: float,
        weights: Array,
        counting: Counting,
        stage: str = "coding",
        course: Course | None = None,
    ) -> Draft:
        """Plan, encode and write everything at ``price``.

        weights: what a unit of squared error counts, (contents, items). With a course the price is
        mended after every few items, by what they took.
        """

        def one(price: float, index: int) -> tuple[EncodedModule | EncodedTensor, float]:
            if index >= len(self._store):
                tensor, own = self._tensor(index, weights)
                shared = self._common(index)
                encoded = encode_tensor(tensor.read, tensor.shape, own, price, shared)
                # What was expected is estimated once, for the course of a whole pass.
                return encoded, float(course.bits[index]) if course else 0.0
            core = self._store.core(index)
            plan = self._plan(core, price, weights)
            encoding = encode_module(core, plan, self._measure, self._given(index))
            return encoding, plan.bits

        written = _Written(self._contents, self._items, self._core is not None)
        mended, planned = price, 0.0
        for leg in _legs(self._items) if course else [range(self._items)]:
            items = self._map(functools.partial(one, mended), leg)
            for index, (item, bits) in zip(leg, items, strict=True):
                planned += bits
                if isinstance(item, EncodedModule):
                    written.module(item, self._paths[index], self._adapters)
                else:
                    tensor = self._tensors[index - len(self._store)]
                    written.tensor(index, item, tensor, self._adapters)
                self._progress(stage, index + 1, self._items)
            if course:
                mended = course.mended(price, leg.stop, planned, 8 * written.size)
        shared, own = written.finish()
        average = course.average(price, planned) if course else price
        forms = dict(sorted(written.forms.items()))
        energies = written.energies
        middle = middle_price(average, weights, energies, counting, self._measure)
        parts = shared, own, written.errors, energies, forms
        return Draft(*parts, average, weights, counting, middle)

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
