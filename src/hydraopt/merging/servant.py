"""Worker side of a pass: read, plan and encode items, and code streams.

An answer follows from its question: which adapters' numbers, which item, at which price. The hash
of the question is the name of the file and a part of its checksum, so a file answers this question
or counts as missing, as one that is damaged does. Workers on several machines may
share the folder.

Items are modules and coded tensors. An item stays with the worker that read it first, so that it is
decomposed once. A stream stays with one worker as well: records of its content reach it, item by
item, as scripts. All answers depend only on the question and on the adapters' files.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from hydraopt.codec import (
    SHARED,
    Aside,
    Bases,
    BasisRecord,
    BlockStore,
    ChunkWriter,
    CodingRoom,
    DenseRecord,
    Drawn,
    EncodedModule,
    FactorReader,
    Given,
    Measure,
    Mode,
    ModuleCore,
    ModulePlan,
    Scribe,
    SharedTensor,
    Starts,
    WideCore,
    apart,
    blocks_of,
    encode_bases,
    encode_module,
    encode_tensor,
    estimate_tensor,
    plan_module,
    play,
    scripts_in,
    share_tensor,
    write_basis,
    write_dense,
    write_record,
)
from hydraopt.files import open_regular, write_atomically
from hydraopt.merging.tensors import TensorMatrices

_SUFFIX: Final = ".shard"
_CHECK: Final = 32
_HEAD: Final = 4


@dataclass(frozen=True)
class Shards:
    """Shards below ``folder``, which is made when it is needed."""

    folder: Path

    def answer(
        self,
        question: list[Any],
        make: Callable[[], tuple[Any, bytes]],
    ) -> tuple[Any, bytes]:
        """Return the answer that ``make`` gives, or gave before.

        question: what the answer follows from, as JSON. make: gives something that JSON has, and
        bytes. Raises OSError if an answer cannot be written.
        """
        key = hashlib.sha256(json.dumps(question).encode())
        name = key.hexdigest()
        path = self.folder / name[:2] / f"{name}{_SUFFIX}"
        with suppress(OSError, ValueError, RecursionError):
            return _kept(path, key.digest())
        head, data = make()
        text = json.dumps(head).encode()
        body = len(text).to_bytes(_HEAD, "little") + text + data
        os.makedirs(path.parent, exist_ok=True)
        write_atomically(path, [_check(key.digest(), body), body])
        return head, data


def _check(question: bytes, body: bytes) -> bytes:
    return hashlib.sha256(question + body).digest()


def _kept(path: Path, question: bytes) -> tuple[Any, bytes]:
    """Return the answer in a file.

    Raises OSError for no file, ValueError for one that is incomplete or of another question.
    """
    with open_regular(path) as file:
        data = file.read()
    check, body = data[:_CHECK], data[_CHECK:]
    if _check(question, body) != check:
        raise ValueError("not the answer to this question")
    start = _HEAD + int.from_bytes(body[:_HEAD], "little")
    return json.loads(body[_HEAD:start]), body[start:]


_TOGETHER: Final = 4 << 20
"""Approximate number of bytes of streams handed over at once."""


@dataclass(frozen=True)
class ModuleItem:
    """Module as an item of a pass.

    names: names of the contents that have it, for errors.
    given: bases of an existing core.
    starts: contents with a start, and the initial A that each has here.
    digest: digest of all inputs of answers about the item, except the question; None if unknown.
    """

    path: str
    read: FactorReader = field(repr=False)
    names: Mapping[int, str]
    given: Bases | None = None
    digest: str | None = None
    starts: Mapping[int, Drawn | None] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorItem:
    """Coded tensor as an item of a pass. names, given, digest: as for a module."""

    matrices: TensorMatrices = field(repr=False)
    names: Mapping[int, str]
    given: Given | None = None
    digest: str | None = None


Item = ModuleItem | TensorItem


@dataclass(frozen=True)
class Setup:
    """Configuration that all workers share.

    owners: the worker that codes each content's stream, and that of the shared one under SHARED.
    frozen: whether shared data exists already, and is not written.
    spaces, vectors: bytes that a worker keeps, see CoreStore.
    shards: store for answers, or None.
    """

    measure: Measure
    modes: tuple[Mode, ...]
    owners: Mapping[int, int]
    workers: int
    frozen: bool
    spaces: int
    vectors: int
    shards: Shards | None = None


@dataclass(frozen=True)
class Made:
    """Result of encoding an item, without its records.

    bits: the planner's estimate.
    errors, energies: squared norms, in the order of ``contents``.
    forms: number of records by form.
    shares: whether the item's shared record holds anything.
    numbers: count of numbers that all its records stand for.
    """

    bits: float
    contents: Sequence[int]
    errors: Sequence[float]
    energies: Sequence[float]
    forms: Mapping[str, int]
    shares: bool
    numbers: int


BasisRecords = tuple[BasisRecord | None, BasisRecord | None]
"""Basis records of a module, left and right."""


@dataclass(frozen=True)
class _Begun:
    """Module with some blocks encoded. about: index, price and weights."""

    about: tuple[int, float, tuple[float, ...]]
    core: ModuleCore | WideCore
    plan: ModulePlan
    bases: BasisRecords

    @functools.cached_property
    def given(self) -> Bases:
        """Bases as readers decode them."""
        left, right = self.bases
        return left.basis if left else None, right.basis if right else None


@dataclass(frozen=True)
class _BegunTensor:
    """Tensor with some blocks encoded. about: as in _Begun."""

    about: tuple[int, float, tuple[float, ...]]
    shared: SharedTensor


class Servant:
    """One worker's share of a job."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._items: dict[int, Item] = {}
        self._readers: dict[int, FactorReader] = {}
        self._starts: dict[int, Starts] = {}
        self._store = BlockStore(self._readers, setup.spaces, setup.vectors)
        self._begun: _Begun | _BegunTensor | None = None
        self.begin()

    def learn(self, index: int, item: Item) -> None:
        """Take an item over."""
        self._items[index] = item
        if isinstance(item, ModuleItem):
            self._readers[index], self._starts[index] = item.read, Starts(item.starts)

    def energies(self, index: int) -> tuple[list[int], list[float], int]:
        """Return the contents that have an item, its squared norms and its number of blocks.

        Norms are Frobenius norms, one a content.
        """

        def make() -> tuple[Any, bytes]:
            item = self._items[index]
            if isinstance(item, TensorItem):
                tensor = item.matrices
                blocks = len(blocks_of(tensor.shape, len(tensor.contents)))
                return [tensor.contents, tensor.squared_norms(), blocks], b""
            core = self._store.of(index)
            norms = [float(s @ s) for s in core.s]
            return [core.contents, norms, core.count], b""

        contents, norms, blocks = self._answer(index, ["energies"], make)[0]
        return contents, norms, blocks

    def bits(self, index: int, price: float, weights: Sequence[float]) -> float:
        """Return the planner's estimate of the bits of an item.

        weights: weight of a unit of squared error in each content that has the item, in rising
            order of content.
        """

        def make() -> tuple[Any, bytes]:
            item = self._items[index]
            if isinstance(item, TensorItem):
                tensor = item.matrices
                return estimate_tensor(tensor.read, tensor.shape, weights, price, item.given), b""
            return self._plan(index, item, price, weights)[1].bits, b""

        return float(self._answer(index, ["bits", price, weights], make)[0])

    def encode(
        self,
        index: int,
        price: float,
        weights: Sequence[float],
        expected: float,
        block: int = 0,
        threads: int = 1,
    ) -> tuple[Made, list[bytes]]:
        """Plan and encode a block of an item.

        Data that an item has once is with its first block.

        expected: bits of a tensor, which are estimated once, for the course of a whole pass.
        threads: threads of workers that wait for this one; they do not change the answer.

        Returns the result, and the scripts for each worker's streams.
        """

        def make() -> tuple[Any, bytes]:
            item = self._items[index]
            if isinstance(item, TensorItem):
                about = index, price, tuple(weights)
                made, scripts = self._tensor(item, about, 0.0 if block else expected, block)
            else:
                made, scripts = self._block(index, item, price, weights, block, threads)
            return asdict(made), scripts

        question = ["encode", price, weights, expected, block]
        head, scripts = self._answer(index, question, make)
        owners = self._setup.owners
        parts: list[list[memoryview]] = [[] for _ in range(self._setup.workers)]
        for whose, script in apart(scripts):
            parts[owners[whose]].append(script)
        return Made(**head), [b"".join(part) for part in parts]

    def _answer(
        self, index: int, question: list[Any], make: Callable[[], tuple[Any, bytes]]
    ) -> tuple[Any, bytes]:
        """Return :meth:`Shards.answer`, or compute the answer if it cannot be stored."""
        shards, digest = self._setup.shards, self._items[index].digest
        if shards is None or digest is None:
            return make()
        return shards.answer([digest, *question], make)

    def _plan(
        self, index: int, item: ModuleItem, price: float, weights: Sequence[float]
    ) -> tuple[ModuleCore | WideCore, ModulePlan]:
        core, setup = self._store.of(index), self._setup
        # The order in which they were read.
        by_content = dict(zip(sorted(item.names), weights, strict=True))
        own = [by_content[content] for content in core.contents]
        plan = plan_module(
            core, own, price, setup.measure, setup.modes, item.given, self._starts[index]
        )
        return core, plan

    def _block(
        self,
        index: int,
        item: ModuleItem,
        price: float,
        weights: Sequence[float],
        block: int,
        threads: int,
    ) -> tuple[Made, bytes]:
        """Encode some tasks of a module; with the first ones its bases and the expected bits."""
        about = index, price, tuple(weights)
        started = self._begun
        if not isinstance(started, _Begun) or started.about != about:
            core, plan = self._plan(index, item, price, weights)
            bases = encode_bases(core, plan, threads) if item.given is None else (None, None)
            started = _Begun(about, core, plan, bases)
        self._begun = started if block + 1 < started.core.count else None
        part, tasks = started.core.block(block)
        plan, given = started.plan, item.given or started.given
        module = encode_module(
            part, plan.of(tasks), self._setup.measure, given, threads, self._starts[index]
        )
        if block:
            return self._module(item, module, None, 0.0)
        return self._module(item, module, started.bases, plan.bits)

    def _module(
        self, item: ModuleItem, module: EncodedModule, bases: BasisRecords | None, bits: float
    ) -> tuple[Made, bytes]:
        scribe, numbers, scripts = Scribe(), 0, list[bytes]()
        held = [x for x in bases or () if x is not None]
        for basis in held:
            basis.block.check(module=item.path)
        if bases is not None and not self._setup.frozen:
            for side in bases:
                write_basis(scribe, side)
            numbers += sum(x.block.levels.size for x in held)
            scripts.append(scribe.script(SHARED, numbers))
        forms = Counter[str]()
        for content, record in zip(module.contents, module.records, strict=True):
            own = record.numbers if record else 0
            if record is not None:
                record.check(item.names[content], item.path)
            write_record(scribe, record, module.has_bases or content in item.starts)
            scripts.append(scribe.script(content, own))
            forms[record.mode.form if record else "nothing"] += 1
            numbers += own
        measured = module.contents, module.errors, module.energies, dict(forms)
        shares = bool(held) and not self._setup.frozen
        return Made(bits, *measured, shares, numbers), b"".join(scripts)

    def _tensor(
        self, item: TensorItem, about: tuple[int, float, tuple[float, ...]], bits: float, block: int
    ) -> tuple[Made, bytes]:
        """Encode a tensor of some tasks; with the first ones the part that all share."""
        tensor, (_, price, weights) = item.matrices, about
        started = self._begun
        if not isinstance(started, _BegunTensor) or started.about != about:
            shared = share_tensor(tensor.read, tensor.shape, weights, price, item.given)
            started = _BegunTensor(about, shared)
        blocks = blocks_of(tensor.shape, len(tensor.contents))
        self._begun = started if block + 1 < len(blocks) else None
        encoded = encode_tensor(tensor.read, weights, price, started.shared, blocks[block])
        scribe, numbers, scripts = Scribe(), 0, list[bytes]()
        key, whole = tensor.entry.key, math.prod(tensor.shape)
        common = DenseRecord(rest=encoded.common)
        common.check(module=key)
        if not block and not self._setup.frozen:
            write_dense(scribe, common)
            numbers += common.numbers(whole, bounded=True)
            scripts.append(scribe.script(SHARED, numbers))
        contents = tuple(tensor.contents[i] for i in blocks[block])
        for content, record in zip(contents, encoded.records, strict=True):
            record.check(item.names[content], key)
            write_dense(scribe, record)
            own = record.numbers(whole, tensor.own is not None)
            scripts.append(scribe.script(content, own))
            numbers += own
        shares = encoded.common is not None and not self._setup.frozen
        measured = contents, encoded.errors, encoded.energies
        return Made(bits, *measured, {}, shares, numbers), b"".join(scripts)

    def begin(self) -> None:
        """Begin a pass: empty this worker's streams."""
        self._streams: dict[int, ChunkWriter] = {}
        self._aside, self._room, self._written = Aside(), CodingRoom(), 0

    def write(self, scripts: bytes) -> int:
        """Code an item's records; the bytes of this worker's streams so far."""
        for whose, numbers, steps in scripts_in(scripts):
            stream = self._streams.get(whose)
            before = 0 if stream is None else stream.size
            if stream is None:
                stream = self._streams[whose] = ChunkWriter(aside=self._aside)
            with stream.turn(self._room):
                play(steps, stream)
                stream.end_record(numbers)
            self._written += stream.size - before
        return self._written

    def finish(self) -> dict[int, bytes]:
        """Close some of this worker's streams, about _TOGETHER bytes, and return them.

        Returns the bytes by content, and under SHARED; nothing once all are closed.
        """
        done: dict[int, bytes] = {}
        size = 0
        while self._streams and size < _TOGETHER:
            whose = next(iter(self._streams))
            stream = self._streams.pop(whose)
            with stream.turn(self._room):
                done[whose] = stream.finish()
            size += len(done[whose])
        return done
