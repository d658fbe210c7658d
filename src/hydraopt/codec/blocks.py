"""Modules of many tasks, some tasks at a time: memory does not grow with the tasks.

A block is a core of its own. What the blocks have in common is found by adding up over them: the
scatter of all vectors of a side, which has the module's size whatever the tasks are. Blocks are cut
by what the tasks hold, so results depend on no setting. Vectors for which memory has no room lie in
a temporary file, so that an adapter's file is read once; beyond its bound they are made again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from hydraopt.codec.aside import Aside, Place
from hydraopt.codec.core import (
    MOST_DIRECTIONS,
    ROUNDS,
    SPARE,
    CoreStore,
    Decomposed,
    FactorReader,
    Family,
    KeptSpaces,
    ModuleCore,
    Room,
    SharedSpace,
    Spaces,
    Stacked,
    Vectors,
    decomposed,
    no_vectors,
)
from hydraopt.codec.matrices import STORED_IN_FLOAT32, Array, Basis, Factors, significant

BLOCK_NUMBERS: Final = 1 << 20
"""Approximate count of numbers in the vectors of a block."""
LEAST_VECTORS: Final = 1024
"""Vectors of a block in any case. A module of no more is a ModuleCore, whose spaces are found from
the vectors' products with one another; with more, these would be larger than the scatter."""
MOST_EXACT: Final = 1024
"""Vectors up to this length have their scatter added up; of longer ones the strongest directions
are found, by rounds over all blocks."""

MOST_ASIDE: Final = 4 << 30
"""Bytes of vectors that a worker keeps in a temporary file."""

Pairs = Iterator[tuple[int, Factors]]


def _cut(pairs: Pairs) -> Iterator[Pairs]:
    """Yield a module's factors in blocks; read each to its end before asking for the next."""
    held = next(pairs, None)

    def block() -> Pairs:
        nonlocal held
        vectors, most = 0, 0
        while held is not None:
            factors = held[1]
            most = most or max(
                BLOCK_NUMBERS // (factors.B.shape[0] + factors.A.shape[1]), LEAST_VECTORS
            )
            vectors += factors.B.shape[1]
            if vectors > most and vectors > factors.B.shape[1]:
                return
            yield held
            held = next(pairs, None)

    while held is not None:
        yield block()


class AnyCore(Protocol):
    """Interface of a core for the planner, with one block or several."""

    @property
    def contents(self) -> tuple[int, ...]: ...
    @property
    def m(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def s(self) -> tuple[Array, ...]: ...
    @property
    def count(self) -> int: ...
    def block(self, number: int) -> tuple[ModuleCore, slice]: ...
    def spaces(
        self, weights: Sequence[float], needed: bool = ..., family: Family | None = ...
    ) -> Spaces: ...
    @property
    def families(self) -> tuple[Family, ...]: ...
    def directions(self, space: SharedSpace, side: str, q: int) -> Array: ...
    def over(self, basis: Basis, side: str) -> SharedSpace: ...


@dataclass(frozen=True)
class WideSpace(SharedSpace):
    """Space with explicit directions (N, q) float32; coordinates are computed block by block."""

    vectors: Stacked = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.vectors.nbytes

    def within(self, core: ModuleCore, side: str, q: int) -> Array:
        stacked = core.U if side == "left" else core.V
        within: Array = stacked.T.astype(np.float64) @ self.vectors[:, :q].astype(np.float64)
        return within


@dataclass(frozen=True)
class WideCore:
    """Module with more vectors than a ModuleCore can hold, with the same interface.

    edges: where each block begins among the tasks, and where the last one ends. load: makes the
    vectors of a block.
    """

    contents: tuple[int, ...]
    m: int
    n: int
    s: tuple[Array, ...]
    edges: tuple[int, ...]
    load: Callable[[int], Vectors] = field(repr=False, compare=False)
    _spaces: KeptSpaces = field(default_factory=KeptSpaces, repr=False, compare=False)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self.edges) - 1

    def block(self, number: int) -> tuple[ModuleCore, slice]:
        """Return a core of some tasks, and their numbers; its vectors are computed on demand."""
        tasks = slice(self.edges[number], self.edges[number + 1])
        about = self.contents[tasks], self.m, self.n, self.s[tasks]
        return ModuleCore(*about, lambda: self.load(number)), tasks

    def spaces(
        self,
        weights: Sequence[float],
        needed: bool = True,
        family: Family | None = None,
    ) -> Spaces:
        """Return (left, right) for task weights; ``needed`` and families have no use here."""
        key = tuple(weights)
        if key in self._spaces.held:
            return self._spaces.held[key]
        d = [s * np.sqrt(w) for s, w in zip(self.s, weights, strict=True)]
        unit = max(float(x.max(initial=0.0)) for x in d)
        sides = _sought(self.m), _sought(self.n)
        for _ in range(max(side.rounds for side in sides) if unit else 0):
            for core, tasks in map(self.block, range(self.count)):
                own = np.concatenate(d[tasks]) / unit
                for side, stacked in zip(sides, (core.U, core.V), strict=True):
                    side.take(stacked, own)
            for side in sides:
                side.turn()
        spaces = sides[0].space(unit), sides[1].space(unit)
        self._spaces.put(key, spaces, 0)
        return spaces

    @property
    def families(self) -> tuple[Family, ...]:
        """Return no families: they would need the products of each block with every other."""
        return ()

    def directions(self, space: SharedSpace, side: str, q: int) -> Array:
        """Return the first q directions of a space, (N, q), float64."""
        assert isinstance(space, WideSpace)
        return space.vectors[:, :q].astype(np.float64)

    def over(self, basis: Basis, side: str) -> SharedSpace:
        """Return the space of an existing basis."""
        return WideSpace(
            np.zeros(basis.q), *no_vectors(), None, basis.orthonormal.astype(np.float32)
        )


class _Scatter:
    """All directions of one side, from ``sum_b X_b X_b^T`` (N, N)."""

    rounds = 1

    def __init__(self, length: int) -> None:
        self._sum = np.zeros((length, length))
        self._done = False

    def take(self, stacked: Stacked, d: Array) -> None:
        """Add a block's vectors (N, P) and their weighted values (P,)."""
        if not self._done:
            x = stacked * d
            self._sum += x @ x.T

    def turn(self) -> None:
        """Note that all blocks were added."""
        self._done = True

    def space(self, unit: float) -> WideSpace:
        """Return the directions, strongest first. unit: divisor of the weighted values."""
        return _wide(*np.linalg.eigh(self._sum), unit)


class _Strongest:
    """Strongest directions of one side, by rounds of ``sum_b X_b (X_b^T Y)``."""

    rounds = ROUNDS + 1

    def __init__(self, length: int) -> None:
        shape = length, min(MOST_DIRECTIONS + SPARE, length)
        probe = np.random.default_rng(0).standard_normal(shape)
        self._range, self._sum = np.linalg.qr(probe)[0], np.zeros(shape)
        self._round = 0
        self._small = np.zeros((shape[1], shape[1]))

    def take(self, stacked: Stacked, d: Array) -> None:
        """Add a block, as in _Scatter."""
        image = (stacked * d).T @ self._range
        if self._round + 1 < self.rounds:
            self._sum += (stacked * d) @ image
        else:
            self._small += image.T @ image

    def turn(self) -> None:
        self._round += 1
        if self._round < self.rounds:
            self._range, self._sum = np.linalg.qr(self._sum)[0], np.zeros_like(self._sum)

    def space(self, unit: float) -> WideSpace:
        """Return the strongest directions only, as in _Scatter."""
        energy, turn = np.linalg.eigh(self._small)
        strong = slice(-MOST_DIRECTIONS, None)
        return _wide(energy[strong], self._range @ turn[:, strong], unit)


def _sought(length: int) -> _Scatter | _Strongest:
    return _Scatter(length) if length <= MOST_EXACT else _Strongest(length)


def _wide(energy: Array, directions: Array, unit: float) -> WideSpace:
    """Build a space from energies, rising, and their directions (N, q)."""
    sound = significant(energy, STORED_IN_FLOAT32, least=1e-300)
    keep = np.flatnonzero(sound)[::-1]
    values = np.sqrt(energy[keep]) * unit
    return WideSpace(values, *no_vectors(), None, directions[:, keep].astype(np.float32))


class BlockStore(CoreStore):
    """Cores of all modules, in blocks where they have very many tasks."""

    def __init__(
        self, readers: Mapping[int, FactorReader], room: int, vectors: int = 160 << 20
    ) -> None:
        super().__init__(readers, room, vectors)
        self._on_disk, self._aside = Room(MOST_ASIDE), Aside()
        self._wide: dict[int, WideCore] = {}

    def of(self, index: int) -> ModuleCore | WideCore:
        """Return the core of module ``index``."""
        if index in self._wide:
            return self._wide[index]
        if index in self._known:
            return self.core(index)
        blocks = _cut(self._readers[index]())
        first = decomposed(next(blocks))
        second = next(blocks, None)
        if second is None and sum(s.size for s in first[1]) <= LEAST_VECTORS:
            return self._first(index, first)
        rest = map(decomposed, itertools.chain([] if second is None else [second], blocks))
        self._wide[index] = self._joined(index, itertools.chain([first], rest))
        return self.of(index)

    def _joined(self, index: int, blocks: Iterator[Decomposed]) -> WideCore:
        """Return the core of a module in blocks; each is released before the next is read."""
        contents, values, edges = list[int](), list[Array](), [0]
        load, lengths = list[Callable[[], Vectors]](), (0, 0)
        for some, s, vectors in blocks:
            tasks = slice(len(contents), len(contents) + len(some))
            contents += some
            values += s
            edges.append(tasks.stop)
            lengths = len(vectors[0]), len(vectors[1])
            load.append(self._kept(index, vectors, tasks))
            del vectors  # before the next ones are made
        about = tuple(contents), *lengths, tuple(values), tuple(edges)
        return WideCore(*about, lambda number: load[number](), KeptSpaces(self._spaces))

    def _kept(self, index: int, vectors: Vectors, tasks: slice) -> Callable[[], Vectors]:
        """Return a function that loads the vectors again, also from a file if that has room.

        See CoreStore.
        """
        size = sum(x.nbytes for x in vectors)
        if size > self._vectors.left and self._on_disk.take(size):
            with suppress(OSError):  # a full disk is no room
                # As they lie in memory, so that no product rounds in another way.
                places = [self._aside.put(x.T.tobytes()) for x in vectors]
                lengths = [len(x) for x in vectors]
                return lambda: self._brought(places, lengths)
        return super()._kept(index, vectors, tasks)

    def _brought(self, places: Sequence[Place], lengths: Sequence[int]) -> Vectors:
        left, right = (
            np.frombuffer(self._aside.read(place), np.float32).reshape(-1, length).T
            for place, length in zip(places, lengths, strict=True)
        )
        return left, right
