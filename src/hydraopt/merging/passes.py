"""One pass: every module and tensor planned, encoded and written at one price of a bit.

A worker reads ranges of the adapters' files itself. A tensor that is in memory, or in a file that
cannot be read by ranges (a pickle), is written to a temporary folder once. What a bundle decodes
stays in this process: it is decoded once, whole.

Both are items here, modules first. Items are independent until they meet in the streams. So the
workers of an engine have items of their own, and streams of their own; what goes from one to the
other are scripts, in the items' order. The result does not depend on the number of workers: each
item is computed by one, with the BLAS library held to one thread, and each stream written by one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from hydraopt.adapters import FileSpan, LowRankModule, RawTensor, stamp_of
from hydraopt.bundle import TensorEntry, reference_of, rounded_matrix
from hydraopt.codec import (
    ROOM,
    SHARED,
    Array,
    Aside,
    Given,
    Laid,
    Measure,
    Mode,
    Place,
    one_blas_thread,
)
from hydraopt.merging.alignment import DecodedModule, MergeSet, ModuleFactors
from hydraopt.merging.job import Course, Draft, UnreadableError, legs_of
from hydraopt.merging.pool import Answer, Closing, Pool, SerialPool, WorkerLostError
from hydraopt.merging.servant import Item, Made, ModuleItem, Servant, Setup, Shards, TensorItem
from hydraopt.merging.tensors import TensorMatrices
from hydraopt.merging.weights import Counting, middle_price
from hydraopt.merging.workers import Engine
from hydraopt.progress import Progress, silent
from hydraopt.version import source_hash

WORTH: Final = 5_000_000
"""Numbers of the inputs that a further process is started for: more work than its start takes. By
hand on two cores: four million take as long either way, eight a tenth less with two."""


class Spool:
    """A temporary folder of tensors that have no file of their own; it goes with :meth:`close`."""

    def __init__(self, place: str | os.PathLike[str] | None = None) -> None:
        if place is not None:
            place = os.path.abspath(place)
            os.makedirs(place, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="hydraopt-", dir=place)
        # With the tensor, so that no other gets its identity.
        self._known: dict[int, tuple[RawTensor, RawTensor]] = {}

    def portable(self, tensor: RawTensor) -> RawTensor:
        """Return the tensor, or one with the same bytes in a file that has an absolute path.

        A worker may have another current folder.
        """
        if getattr(tensor.read, "portable", False):
            if isinstance(tensor.read, FileSpan) and not tensor.read.path.is_absolute():
                read = dataclasses.replace(tensor.read, path=tensor.read.path.absolute())
                return dataclasses.replace(tensor, read=read)
            return tensor
        if id(tensor) not in self._known:
            path = Path(self._folder.name) / f"{len(self._known)}"
            size = path.write_bytes(tensor.raw())
            span = FileSpan(path, 0, size, stamp_of(path.stat()))
            self._known[id(tensor)] = tensor, dataclasses.replace(tensor, read=span)
        return self._known[id(tensor)][1]

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()


def pool_for(pieces: MergeSet, engine: Engine) -> tuple[Pool, MergeSet]:
    """Return the pool of a job, and its pieces in a form that the pool's workers can read.

    Small jobs of a local engine, and decoded tasks of a bundle, get this process alone. Tensors
    without a file of their own are written below the engine's ``work``, if it has one.
    """
    held = (x for read in pieces.readers for _, x in read.contents)
    if any(isinstance(x, DecodedModule) for x in held):
        return SerialPool(), pieces
    size = max(min(engine.most(), len(pieces.readers) + len(pieces.matrices)), 1)
    if not engine.remote:
        size = min(size, 1 + pieces.numbers // WORTH)
    if size < 2 and not engine.remote:
        return SerialPool(), pieces
    spool = Spool(engine.work)
    # First what can fail, and only then the processes, which nobody has to end yet.
    try:
        sent = portable(pieces, spool)
        return engine.pool(size, spool.close), sent
    except BaseException:
        spool.close()
        raise


def portable(pieces: MergeSet, spool: Spool) -> MergeSet:
    """Return a copy of the pieces in which every piece can be sent to another process."""
    return dataclasses.replace(
        pieces,
        readers=tuple(
            ModuleFactors(tuple((i, _portable_module(x, spool)) for i, x in read.contents))
            for read in pieces.readers
        ),
        matrices=tuple(_portable_matrices(x, spool) for x in pieces.matrices),
    )


def _portable_module(module: LowRankModule | DecodedModule, spool: Spool) -> LowRankModule:
    assert isinstance(module, LowRankModule)
    a, b = spool.portable(module.a), spool.portable(module.b)
    between = None if module.between is None else spool.portable(module.between)
    if a is module.a and b is module.b and between is module.between:
        return module
    return dataclasses.replace(module, a=a, b=b, between=between)


def _portable_matrices(x: TensorMatrices, spool: Spool) -> TensorMatrices:
    own = None if x.own is None else spool.portable(x.own)
    return dataclasses.replace(x, tensors=tuple(map(spool.portable, x.tensors)), own=own)


T = TypeVar("T")

_MOST_ROOM: Final = 1 << 30
"""Maximum bytes of shared spaces kept between passes; below it, as many as the inputs have."""
_VECTORS: Final = 48 << 20
"""Bytes of singular vectors kept between passes."""
_AHEAD: Final = 2
"""Items requested from a worker before the result of the first one is used."""
_MANY_AHEAD: Final = 32
"""Items requested ahead if answers are small, so that no worker waits for one that just started."""
_SHARED: Final = 0.3
"""Work on the shared stream, of that on all others; of forty adapters at 10 %."""
_TRIES: Final = 3
"""Maximum number of attempts at a pass in which workers are lost."""


@dataclass(frozen=True)
class _GivenBack:
    """Reader's version of a decoded matrix of an entry, in its dtype; see the type of that name.

    own: the base model's tensor, if the entry is a difference from it.
    """

    entry: TensorEntry
    own: RawTensor | None

    def __call__(self, matrix: Array) -> Array:
        reference = reference_of(self.entry, None, self.own)
        back: Array = rounded_matrix(self.entry, reference + matrix) - reference
        return back


class _Tally:
    """Running totals of a pass.

    errors, energies (contents, items): as in a Draft.
    size: bytes of all streams so far; valid while nothing is being written.
    """

    def __init__(self, contents: int, items: int, workers: int) -> None:
        self.errors = np.zeros((contents, items))
        self.energies = np.zeros_like(self.errors)
        self.forms = Counter[str]()
        self.shares, self.numbers, self.planned = False, 0, 0.0
        self.sizes = [0] * workers

    def add(self, index: int, made: Made) -> None:
        contents = list(made.contents)
        self.errors[contents, index] = made.errors
        self.energies[contents, index] = made.energies
        self.forms.update(made.forms)
        self.shares |= made.shares
        self.numbers += made.numbers
        self.planned += made.bits

    @property
    def size(self) -> int:
        return sum(self.sizes)


_DECIDE: Final = ("adapters", "bundle", "codec", "merging")
"""Packages whose code decides what is answered to a question."""


@functools.cache
def _versions() -> tuple[str, ...]:
    """Return what answers depend on beside the question: the code, and versions of libraries."""
    return source_hash(*_DECIDE), metadata.version("numpy")


class Passes(Closing):
    """Passes over one set of modules and tensors; shared state stays with the workers.

    pool: workers, by default this process alone. It is closed with the passes, at the end of a
        ``with`` block.
    memory: bytes that each worker may keep between passes.
    shards: store of answers.
    """

    def __init__(
        self,
        pieces: MergeSet,
        measure: Measure,
        modes: Sequence[Mode],
        pool: Pool | None = None,
        progress: Progress | None = None,
        memory: int | None = None,
        shards: Shards | None = None,
    ) -> None:
        self._pieces, self._measure, self._modes = pieces, measure, tuple(modes)
        self._contents = pieces.contents
        self._modules = len(pieces.modules)
        self._items = self._modules + len(pieces.matrices)
        self._holders, self._names = _holders(pieces), pieces.owners
        self._progress = progress or silent
        self._pool: Pool = pool or SerialPool()
        self._of_item, self._threads = self._shared_out()
        self._told: list[set[int]] = [set() for _ in range(self._pool.size)]
        self._blocks = [0] * self._items  # of each item, once its energies were asked for
        room = (min(max(ROOM, pieces.fp16_bytes), _MOST_ROOM) + _VECTORS) // self._pool.size
        room = room if memory is None else memory
        vectors = min(_VECTORS // self._pool.size, room // 4)
        frozen, workers = pieces.core is not None, self._pool.size
        owners = _owners(self._contents, workers, frozen)
        about = measure, self._modes, owners, workers, frozen, room - vectors, vectors, shards
        self._pool.hire(Servant, Setup(*about))

    def close(self) -> None:
        self._pool.close()

    def _shared_out(self) -> tuple[list[int], list[int]]:
        """Return the worker of each item, and the threads that it may use.

        The worker is the one with the least to do so far in the item's leg, then in all. Workers of
        this machine with nothing left to do in the leg lend their threads.
        """
        workers = self._pool.size
        entries = [module.m + module.n for module in self._pieces.modules]
        entries += [sum(tensor.shape) for tensor in self._pieces.matrices]
        work = [float(x * len(held)) for x, held in zip(entries, self._holders, strict=True)]
        loads, chosen, threads = np.zeros(workers), [0] * self._items, [1] * self._items
        for leg in legs_of(self._items):
            here, begins = np.zeros(workers), dict[int, float]()
            for index in leg:
                worker = min(range(workers), key=lambda w: (here[w], loads[w], -w))
                begins[index] = here[worker]
                here[worker] += work[index]
                loads[worker] += work[index]
                chosen[index] = worker
            if self._pool.near:
                own = [(begins[index], work[index]) for index in leg]
                threads[leg.start : leg.stop] = [_threads(*item, here) for item in own]
        return chosen, threads

    def energies(self) -> Array:
        """Return squared Frobenius norms, (contents, items)."""

        def once() -> Array:
            energies = np.zeros((self._contents, self._items))
            answers = self._map("energies", ((i,) for i in range(self._items)))
            for index, (contents, own, blocks) in answers:
                energies[list(contents), index] = own
                self._blocks[index] = blocks
                self._progress("reading", index + 1, self._items)
            return energies

        return self._steadily(once)

    def estimate(self, price: float, weights: Array) -> Array:
        """Estimate the bits of each item at a price; no number is rounded.

        weights: as for :meth:`run`.
        """

        def once() -> Array:
            calls = ((i, price, self._own(i, weights)) for i in range(self._items))
            return np.array([bits for _, bits in self._map("bits", calls)])

        return self._steadily(once)

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
        mended after every few items, by what they took. Raises UnreadableError for a draft that
        readers would refuse.
        """
        tally, shared, own = self._steadily(lambda: self._written(price, weights, stage, course))
        shared = shared if tally.shares else b""
        average = course.average(price, tally.planned) if course else price
        forms = dict(sorted(tally.forms.items()))
        middle = middle_price(average, weights, tally.energies, counting, self._measure)
        parts = shared, own, tally.errors, tally.energies, forms
        core = self._pieces.core
        strict = core is not None and core.strict
        numbers = tally.numbers, self._pieces.drawn
        draft = Draft(*parts, average, weights, counting, middle, *numbers, strict)
        if not draft.readable:
            raise UnreadableError(draft)
        return draft

    def _written(
        self, price: float, weights: Array, stage: str, course: Course | None
    ) -> tuple[_Tally, bytes, Laid]:
        """Write all items at a price, mended by a course: the shared stream, and each content's."""
        if not all(self._blocks):
            self.energies()
        workers = range(self._pool.size)
        tally = _Tally(self._contents, self._items, self._pool.size)
        mended = price
        for answer in [self._pool.call(worker, "begin") for worker in workers]:
            answer()
        for leg in legs_of(self._items) if course else [range(self._items)]:
            self._leg(leg, mended, weights, stage, course, tally)
            if course:
                mended = course.mended(price, leg.stop, tally.planned, 8 * tally.size)
        return tally, *self._collected()

    def _collected(self) -> tuple[bytes, Laid]:
        """Return the shared stream, and those of the contents."""
        aside, shared = Aside(), b""
        places = [Place(0, 0)] * self._contents
        # All workers are asked before one is waited for: closing a stream codes its numbers.
        calls = deque((w, self._pool.call(w, "finish")) for w in range(self._pool.size))
        while calls:
            worker, answer = calls.popleft()
            if some := answer():
                calls.append((worker, self._pool.call(worker, "finish")))
            shared = some.pop(SHARED, shared)
            for content, stream in some.items():
                places[content] = aside.put(stream)
        return shared, Laid(aside, places)

    def _leg(
        self,
        leg: range,
        price: float,
        weights: Array,
        stage: str,
        course: Course | None,
        tally: _Tally,
    ) -> None:
        """Encode items at one price; written ones give the tally the size of the streams."""
        writing: deque[list[Answer]] = deque()
        bits = course.bits if course else np.zeros(self._items)
        calls = (
            (i, price, self._own(i, weights), float(bits[i]), block, self._threads[i])
            for i in leg
            for block in range(self._blocks[i])
        )
        for index, (made, scripts) in self._map("encode", calls, _AHEAD):
            tally.add(index, made)
            writing.append([self._pool.call(w, "write", own) for w, own in enumerate(scripts)])
            # Scripts that wait to be coded take memory.
            while len(writing) > _AHEAD * self._pool.size:
                self._sizes(writing.popleft(), tally)
            self._progress(stage, index + 1, self._items)
        while writing:
            self._sizes(writing.popleft(), tally)

    def _sizes(self, answers: list[Answer], tally: _Tally) -> None:
        tally.sizes = [answer() for answer in answers]

    def _own(self, index: int, weights: Array) -> list[float]:
        own: list[float] = weights[self._holders[index], index].tolist()
        return own

    def _map(
        self, method: str, calls: Iterable[tuple[Any, ...]], ahead: int = _MANY_AHEAD
    ) -> Iterator[tuple[int, Any]]:
        """Yield (item, result) in order; each question starts with its item.

        ahead: items asked for ahead of each worker.
        """
        with one_blas_thread():
            waiting: deque[tuple[int, Answer]] = deque()
            for question in calls:
                index = question[0]
                worker = self._of_item[index]
                if index not in self._told[worker]:
                    self._pool.call(worker, "learn", index, self._item(index))
                    self._told[worker].add(index)
                waiting.append((index, self._pool.call(worker, method, *question)))
                if len(waiting) > ahead * self._pool.size:
                    index, answer = waiting.popleft()
                    yield index, answer()
            while waiting:
                index, answer = waiting.popleft()
                yield index, answer()

    def _item(self, index: int) -> Item:
        """Return the description of an item that is sent to a worker."""
        pieces, core = self._pieces, self._pieces.core
        names = {content: self._names[content] for content in self._holders[index]}
        if index < self._modules:
            given, module = None if core is None else core.bases[index], pieces.modules[index]
            read, starts = pieces.readers[index], pieces.initial(module.path, names)
            digest = self._digest(index, (module, sorted(starts.items())))
            return ModuleItem(module.path, read, names, given, digest, starts)
        at = index - self._modules
        entry, matrices = pieces.tensors[at], pieces.matrices[at]
        common = None if core is None else core.commons[at]
        known = Given(common, core is None, _GivenBack(entry, matrices.own), entry.needed)
        return TensorItem(matrices, names, known, self._digest(index, entry))

    def _digest(self, index: int, entry: object) -> str | None:
        """Return the digest of everything that answers about an item depend on; None if unknown."""
        digests = self._pieces.digests
        if not digests or self._pieces.core is not None:
            return None
        about = *_versions(), self._measure, self._modes, entry
        held = [(content, digests[content]) for content in self._holders[index]]
        return hashlib.sha256(repr((about, held)).encode()).hexdigest()

    def _steadily(self, make: Callable[[], T]) -> T:
        """Return the result of ``make``; start it again with new workers if some were lost."""
        for left in range(_TRIES - 1, -1, -1):
            try:
                return make()
            except WorkerLostError:
                if not left:
                    raise
                self._pool.revive()
                # Also those that live may have been told something that they have not heard.
                self._told = [set() for _ in range(self._pool.size)]
        raise AssertionError


def _threads(begins: float, work: float, ends: Array) -> int:
    """Return the number of threads for an item, from the workers idle from its middle on.

    begins: time at which the item begins.
    work: its duration, in the same unit.
    ends: time at which each worker runs out of work.
    """
    busy = int(np.count_nonzero(ends > begins + work / 2))
    return len(ends) // max(busy, 1)


def _owners(contents: int, workers: int, frozen: bool) -> dict[int, int]:
    """Return the worker that codes each content's stream and the shared one, evenly loaded."""
    loads = [0.0] * workers
    loads[-1] = 0.0 if frozen else _SHARED * contents
    owners = {SHARED: workers - 1}
    for content in range(contents):
        owners[content] = min(range(workers), key=loads.__getitem__)
        loads[owners[content]] += 1
    return owners


def _holders(pieces: MergeSet) -> list[list[int]]:
    """Return the contents that have each item, ascending, modules first."""
    held: list[set[int]] = [set() for _ in range(len(pieces.modules) + len(pieces.matrices))]
    for task in pieces.tasks:
        if task.content is not None:
            for index in task.modules:
                held[index].add(task.content)
    for i, tensor in enumerate(pieces.matrices, len(pieces.modules)):
        held[i].update(tensor.contents)
    return [sorted(contents) for contents in held]
