"""What a worker does in a pass: it reads, plans and encodes its items, and codes its streams.

Items are modules and coded tensors. An item stays with the worker that read it first, so that it is
decomposed once. A stream stays with one worker as well: records of its content reach it, item by
item, as scripts. All that is answered follows from the question and the adapters' files alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hydraopt.coding.chunks import ChunkWriter
from hydraopt.coding.dense import DenseRecord, write_dense
from hydraopt.coding.forms import Mode
from hydraopt.coding.records import write_basis, write_record
from hydraopt.coding.script import SHARED, Scribe, play, scripts_in
from hydraopt.compress.core import CoreStore, FactorReader
from hydraopt.compress.dense import EncodedTensor, Given, encode_tensor, estimate_tensor
from hydraopt.compress.encode import EncodedModule, encode_module
from hydraopt.compress.measure import Measure
from hydraopt.compress.plan import plan_module
from hydraopt.linalg.basis import Bases
from hydraopt.merging.dense import TensorMatrices

__all__ = ["Item", "Made", "ModuleItem", "Servant", "Setup", "TensorItem"]


@dataclass(frozen=True)
class ModuleItem:
    """A module. names: of the contents that have it, for errors. given: the bases of a core that is
    there already."""

    path: str
    read: FactorReader = field(repr=False)
    names: Mapping[int, str]
    given: Bases | None = None


@dataclass(frozen=True)
class TensorItem:
    """A coded tensor. names, given: as a module's."""

    matrices: TensorMatrices = field(repr=False)
    names: Mapping[int, str]
    given: Given | None = None


Item = ModuleItem | TensorItem


@dataclass(frozen=True)
class Setup:
    """What all workers know. modules: items below are modules. owners: the worker that codes each
    content's stream, and that of the shared one under SHARED. frozen: what is shared is there
    already, and is not written. spaces, vectors: bytes that a worker keeps, see CoreStore."""

    measure: Measure
    modes: tuple[Mode, ...]
    owners: Mapping[int, int]
    workers: int
    frozen: bool
    spaces: int
    vectors: int


@dataclass(frozen=True)
class Made:
    """What came of an item, beside its records. bits: what the planner expected. errors, energies:
    squared norms, in the order of ``contents``. forms: of records. shares: whether its shared
    record holds anything. numbers: that all its records stand for."""

    bits: float
    contents: tuple[int, ...]
    errors: tuple[float, ...]
    energies: tuple[float, ...]
    forms: Mapping[str, int]
    shares: bool
    numbers: int


class Servant:
    """One worker's share of a job."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._items: dict[int, Item] = {}
        self._readers: dict[int, FactorReader] = {}
        self._store = CoreStore(self._readers, setup.spaces, setup.vectors)
        self._streams: dict[int, ChunkWriter] = {}

    def learn(self, index: int, item: Item) -> None:
        """Take an item over."""
        self._items[index] = item
        if isinstance(item, ModuleItem):
            self._readers[index] = item.read

    def energies(self, index: int) -> tuple[tuple[int, ...], list[float]]:
        """The contents that have an item, and its squared Frobenius norm in each."""
        item = self._items[index]
        if isinstance(item, TensorItem):
            return item.matrices.contents, item.matrices.squared_norms()
        core = self._store.core(index)
        return core.contents, [float(s @ s) for s in core.s]

    def bits(self, index: int, price: float, weights: Sequence[float]) -> float:
        """What the planner expects of an item; weights: what a unit of squared error counts in
        each content that has it, rising."""
        item = self._items[index]
        if isinstance(item, TensorItem):
            tensor = item.matrices
            return estimate_tensor(tensor.read, tensor.shape, weights, price, item.given)
        core, setup = self._store.core(index), self._setup
        own = _in_order(weights, item, core.contents)
        return plan_module(core, own, price, setup.measure, setup.modes, item.given).bits

    def encode(
        self, index: int, price: float, weights: Sequence[float], expected: float
    ) -> tuple[Made | bytes, ...]:
        """Plan and encode an item: what came of it, and the scripts for each worker's streams.

        expected: bits of a tensor, which are estimated once, for the course of a whole pass.
        """
        item, setup = self._items[index], self._setup
        parts: list[list[bytes]] = [[] for _ in range(setup.workers)]
        if isinstance(item, TensorItem):
            tensor = item.matrices
            encoded = encode_tensor(tensor.read, tensor.shape, weights, price, item.given)
            made = self._tensor(item, encoded, expected, parts)
        else:
            core = self._store.core(index)
            own = _in_order(weights, item, core.contents)
            plan = plan_module(core, own, price, setup.measure, setup.modes, item.given)
            module = encode_module(core, plan, setup.measure, item.given)
            made = self._module(item, module, plan.bits, parts)
        return made, *map(b"".join, parts)

    def _module(
        self, item: ModuleItem, module: EncodedModule, bits: float, parts: list[list[bytes]]
    ) -> Made:
        owners, scribe, numbers = self._setup.owners, Scribe(), 0
        bases = [x for x in (module.left, module.right) if x is not None]
        for basis in bases:
            basis.block.check(module=item.path)
        if not self._setup.frozen:
            write_basis(scribe, module.left)
            write_basis(scribe, module.right)
            numbers += sum(x.block.levels.size for x in bases)
            parts[owners[SHARED]].append(scribe.script(SHARED, numbers))
        forms = Counter[str]()
        for content, record in zip(module.contents, module.records, strict=True):
            own = record.numbers if record else 0
            if record is not None:
                record.check(item.names[content], item.path)
            write_record(scribe, record, module.has_bases)
            parts[owners[content]].append(scribe.script(content, own))
            forms[record.mode.form if record else "nothing"] += 1
            numbers += own
        told = module.contents, module.errors, module.energies, forms
        return Made(bits, *told, bool(bases) and not self._setup.frozen, numbers)

    def _tensor(
        self, item: TensorItem, encoded: EncodedTensor, bits: float, parts: list[list[bytes]]
    ) -> Made:
        owners, scribe, numbers = self._setup.owners, Scribe(), 0
        tensor = item.matrices
        key, whole = tensor.entry.key, math.prod(tensor.shape)
        common = DenseRecord(rest=encoded.common)
        common.check(module=key)
        if not self._setup.frozen:
            write_dense(scribe, common)
            numbers += common.numbers(whole, bounded=True)
            parts[owners[SHARED]].append(scribe.script(SHARED, numbers))
        for content, record in zip(tensor.contents, encoded.records, strict=True):
            record.check(item.names[content], key)
            write_dense(scribe, record)
            own = record.numbers(whole, tensor.own is not None)
            parts[owners[content]].append(scribe.script(content, own))
            numbers += own
        shares = encoded.common is not None and not self._setup.frozen
        told = tensor.contents, encoded.errors, encoded.energies
        return Made(bits, *told, {}, shares, numbers)

    def begin(self) -> None:
        """A new pass: this worker's streams are empty."""
        self._streams = {}

    def write(self, scripts: bytes) -> int:
        """Code an item's records; the bytes of this worker's streams so far."""
        for whose, numbers, steps in scripts_in(scripts):
            stream = self._streams.setdefault(whose, ChunkWriter())
            play(steps, stream)
            stream.end_record(numbers)
        return sum(stream.size for stream in self._streams.values())

    def finish(self) -> dict[int, bytes]:
        """Close this worker's streams; their bytes by content, and under SHARED."""
        done = {whose: stream.finish() for whose, stream in self._streams.items()}
        self._streams = {}
        return done


def _in_order(weights: Sequence[float], item: ModuleItem, contents: Sequence[int]) -> list[float]:
    """Weights of the contents of a module in the order in which they were read."""
    own = dict(zip(sorted(item.names), weights, strict=True))
    return [own[content] for content in contents]
