"""Small core of a module: every task's thin SVD, and the common directions of the tasks.

All planning happens in coordinates of these cores: nothing of size m x n is formed, and the result
does not depend on how a dW was factored.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hydraopt.compress.family import Family, families_of
from hydraopt.compress.spectrum import (
    Stacked,
    by_chance,
    by_scatter,
    strongest,
)
from hydraopt.linalg.basis import Basis
from hydraopt.linalg.cutoff import STORED_IN_FLOAT32, significant
from hydraopt.linalg.shapes import Array, Factors, Thin
from hydraopt.linalg.stack import thin_stack

__all__ = [
    "ROOM",
    "CoreStore",
    "Decomposed",
    "FactorReader",
    "KeptSpaces",
    "ModuleCore",
    "Room",
    "SharedSpace",
    "Spaces",
    "Vectors",
    "decomposed",
    "no_vectors",
    "part_of",
]

MOST_EXACT = 1024
"""Number of stacked vectors, or their length, up to which all directions are computed."""
LEAST_COMPARED = 256
"""Number of vectors from which chance overlap is known well enough for a comparison."""
_FAINT = 1e-6
"""Share of the largest weighted singular value.
Coordinates of fainter vectors are multiplied out."""
_TOGETHER = 1 << 20
"""Approximate count of numbers in the tasks that are decomposed at once."""

ROOM = 256 << 20
"""Default bytes of shared spaces that a store keeps."""

Vectors = tuple[Stacked, Stacked]
"""(U, V) of a module's tasks, each side by side."""


@dataclass(frozen=True)
class SharedSpace:
    """Principal directions of one side over some tasks, strongest first.

    values (q,): weighted singular values, ``sigma_i^2 = sum_t w_t |dW_t v_i|^2``.
    own (S,): indices of these tasks' vectors among the vectors [V_1 ... V_T] of all tasks.
    mix (S, q): the directions themselves are ``[V_1 ... V_T][:, own] mix``, (N, q).
    scale (S,): weighted singular values of the vectors ``own``.
    multiplied (sum r, q): coordinates ``V_t^T V`` of all tasks' vectors, one task below the other,
        float32 or float64; None where ``mix (values / scale)^2`` are these coordinates.
    """

    values: Array
    own: NDArray[np.int64]
    mix: Array
    scale: Array
    multiplied: Stacked | Array | None

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices."""
        return self.mix.nbytes + (0 if self.multiplied is None else self.multiplied.nbytes)

    def within(self, core: ModuleCore, side: str, q: int) -> Array:
        """Return the tasks' vectors of a side in the first q directions, (sum r, q)."""
        if self.multiplied is not None:
            return self.multiplied[:, :q].astype(np.float64, copy=False)
        within: Array = self.mix[:, :q] * self.values[:q] ** 2 / self.scale[:, None] ** 2
        return within


def _shared_space(
    stacked: Stacked, scales: Sequence[Array], needed: bool, own: NDArray[np.int64]
) -> SharedSpace:
    """Return the space of some tasks' singular vectors, in which all tasks have coordinates.

    stacked (N, sum r): the vectors of all tasks.
    scales: weighted singular values of the tasks whose space it is.
    needed: False if no direction is required where these tasks have no more in common than chance
        makes.
    own: indices of their vectors in ``stacked``.
    """
    d = np.concatenate(scales)
    unit = float(d.max(initial=0.0))
    theirs = stacked if own.size == stacked.shape[1] else np.ascontiguousarray(stacked[:, own])
    compared = not needed and LEAST_COMPARED <= d.size <= MOST_EXACT
    if unit == 0 or (compared and by_chance(theirs, d / unit, scales)):
        return SharedSpace(np.zeros(0), own, np.zeros((d.size, 0)), d, None)
    exact = min(d.size, len(stacked)) <= MOST_EXACT
    if not exact:
        energy, w = strongest(theirs, d)
    elif len(stacked) < d.size:
        energy, w = by_scatter(theirs, d)
    else:
        # In float64: float32 would add directions of its own, 3e-4 of the largest.
        vectors = theirs.astype(np.float64)
        energy, w = np.linalg.eigh((vectors.T @ vectors) * np.outer(d, d))
    sound = significant(energy, STORED_IN_FLOAT32, least=1e-300)
    keep = np.flatnonzero(sound)[::-1][: stacked.shape[0]]
    values = np.sqrt(energy[keep])
    mix = d[:, None] * w[:, keep] / values
    # X^T X mix of the weighted vectors X d, since (X^T X * d d^T) w is energy w.
    known = theirs is stacked and exact and d.min() > _FAINT * unit
    multiplied = None if known else stacked.T @ (theirs @ mix.astype(np.float32))
    return SharedSpace(values, own, mix, d, multiplied)


Spaces = tuple[SharedSpace, SharedSpace]
"""Shared spaces of a module, left and right."""


@dataclass
class Room:
    """Number of bytes that may still be kept."""

    left: int

    def take(self, nbytes: int) -> bool:
        """Reserve ``nbytes`` if there is room for them; return whether there was."""
        fits = nbytes <= self.left
        self.left -= nbytes if fits else 0
        return fits


@dataclass
class KeptSpaces:
    """Shared spaces of a module's last weights, as far as there is room for them."""

    room: Room = field(default_factory=lambda: Room(ROOM))
    held: dict[tuple[float, ...], Spaces] = field(default_factory=dict)

    def put(self, key: tuple[float, ...], spaces: Spaces, older: int) -> None:
        """Keep ``spaces`` if there is room, and at most ``older`` earlier ones."""
        while len(self.held) > older:
            gone = self.held.pop(next(iter(self.held)))
            self.room.left += sum(x.nbytes for x in gone)
        if self.room.take(sum(x.nbytes for x in spaces)):
            self.held[key] = spaces


@dataclass(frozen=True)
class ModuleCore:
    """Module over the tasks that have it (T' of them, each with r_t parts).

    contents: which contents (distinct adapters) these are. s: the singular values of each, float64.
    U (m, sum r), V (n, sum r): the thin SVDs' other factors side by side, float32; of a core that
    the store did not keep they are computed when first used.
    """

    contents: tuple[int, ...]
    m: int
    n: int
    s: tuple[Array, ...]
    _read: Callable[[], Vectors] = field(repr=False, compare=False)
    _spaces: KeptSpaces = field(default_factory=KeptSpaces, repr=False, compare=False)
    _families: list[tuple[Family, ...]] = field(default_factory=list, repr=False, compare=False)

    @cached_property
    def _vectors(self) -> Vectors:
        return self._read()

    @property
    def U(self) -> Stacked:
        return self._vectors[0]

    @property
    def V(self) -> Stacked:
        return self._vectors[1]

    @cached_property
    def _edges(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(s.size for s in self.s)])

    count = 1
    """Blocks; a module of very many tasks has more, see hydraopt.compress.blocks."""

    def block(self, number: int) -> tuple[ModuleCore, slice]:
        """Return the only block and the tasks in it."""
        return self, slice(None)

    def vectors_of(self, i: int) -> slice:
        """Return the slice of the i-th task's vectors among all singular vectors."""
        return slice(self._edges[i], self._edges[i + 1])

    def thin(self, i: int) -> Thin:
        """Return the thin SVD of the i-th task of this module, float64."""
        own = self.vectors_of(i)
        return Thin(self.U[:, own].astype(np.float64), self.s[i], self.V[:, own].astype(np.float64))

    def rows(self, side: str, tasks: Sequence[int]) -> Array:
        """Return one side's singular vectors of tasks of one rank as rows, (T, r, N), float64."""
        stacked = (self.U if side == "left" else self.V).T
        if list(tasks) == list(range(tasks[0], tasks[-1] + 1)):
            some = stacked[self._edges[tasks[0]] : self._edges[tasks[-1] + 1]]
        else:
            some = np.concatenate([stacked[self._edges[i] : self._edges[i + 1]] for i in tasks])
        return some.reshape(len(tasks), -1, stacked.shape[1]).astype(np.float64)

    def spaces(
        self, weights: Sequence[float], needed: bool = True, family: Family | None = None
    ) -> Spaces:
        """Return the (left, right) shared spaces for task weights w_t, one per task of the module.

        needed: False if a space may be empty where tasks have no more in common than chance makes.
        family: indices of the tasks whose directions these are; default all.
        """
        # Most passes differ in the price alone, so the last spaces are kept.
        key = (*weights, needed, *(() if family is None else family.tolist()))
        if key in self._spaces.held:
            return self._spaces.held[key]
        some = range(len(self.s)) if family is None else family.tolist()
        scales = [self.s[i] * np.sqrt(weights[i]) for i in some]
        own = np.concatenate([np.arange(self._edges[i], self._edges[i + 1]) for i in some])
        left, right = (_shared_space(x, scales, needed, own) for x in (self.U, self.V))
        spaces = left, right
        self._spaces.put(key, spaces, len(self._families[0]) if self._families else 0)
        return spaces

    @property
    def families(self) -> tuple[Family, ...]:
        """Tasks that a basis of their own is tried of, see hydraopt.compress.family."""
        if not self._families:
            self._families.append(families_of((self.U, self.V), self.s))
        return self._families[0]

    def directions(self, space: SharedSpace, side: str, q: int) -> Array:
        """Return the first q directions of a space, (N, q), float64."""
        stacked = self.U if side == "left" else self.V
        return stacked[:, space.own].astype(np.float64) @ space.mix[:, :q]

    def over(self, basis: Basis, side: str) -> SharedSpace:
        """Return the space of an existing basis; its directions have no strength here."""
        stacked = self.U if side == "left" else self.V
        coordinates = stacked.T.astype(np.float64) @ basis.orthonormal
        return SharedSpace(np.zeros(basis.q), *no_vectors(), coordinates)


def no_vectors() -> tuple[NDArray[np.int64], Array, Array]:
    """Return ``own``, ``mix`` and ``scale`` of a space that was not made of tasks' vectors."""
    return np.zeros(0, np.int64), np.zeros((0, 0)), np.zeros(0)


FactorReader = Callable[[], Iterator[tuple[int, Factors]]]
"""A module's factors on demand, each with its content's number."""


def part_of(read: FactorReader, tasks: slice) -> Iterator[tuple[int, Factors]]:
    """Return the factors of some tasks; earlier ones are skipped if the reader can skip."""
    some = getattr(read, "part", None)
    return some(tasks) if some else itertools.islice(read(), tasks.start, tasks.stop)


Decomposed = tuple[list[int], list[Array], Vectors]


def decomposed(pairs: Iterable[tuple[int, Factors]]) -> Decomposed:
    """Return the contents of a module, their singular values, and their stacked vectors (U, V).

    A task's vectors lie together in memory: U and V are views of rows.
    """
    contents: list[int] = []
    us: list[Stacked] = []
    vs: list[Stacked] = []
    ss: list[Array] = []
    waiting: list[Factors] = []

    def take() -> None:
        b = np.stack([x.B.T for x in waiting])
        a = np.stack([x.A for x in waiting])
        waiting.clear()
        for into, some in zip((us, ss, vs), thin_stack(b, a), strict=True):
            into.extend(some)  # type: ignore[attr-defined]

    for content, factors in pairs:
        contents.append(content)
        most = max(_TOGETHER // max(factors.B.size + factors.A.size, 1), 1)
        if waiting and (waiting[0].A.shape != factors.A.shape or len(waiting) >= most):
            take()
        waiting.append(factors)
    if waiting:
        take()
    return contents, ss, (np.concatenate(us).T, np.concatenate(vs).T)


class CoreStore:
    """Cores of all modules: singular values always, the rest while there is room for it.

    room: bytes for shared spaces. vectors: bytes for the singular vectors that these are made of,
    which are larger and computed again sooner.
    """

    def __init__(
        self,
        readers: Sequence[FactorReader] | Mapping[int, FactorReader],
        room: int = ROOM,
        vectors: int = 160 << 20,
    ) -> None:
        self._readers = readers
        self._known: dict[int, ModuleCore] = {}
        self._spaces, self._vectors = Room(room), Room(vectors)

    def __len__(self) -> int:
        return len(self._readers)

    def core(self, index: int) -> ModuleCore:
        """Return the core of module ``index``."""
        if index not in self._known:
            return self._first(index, decomposed(self._readers[index]()))
        # A copy, so that vectors for which there was no room go with it.
        return replace(self._known[index])

    def _first(self, index: int, made: Decomposed) -> ModuleCore:
        """Return the core of a module that was just decomposed."""
        contents, s, vectors = made
        m, n = (x.shape[0] for x in vectors)
        kept = KeptSpaces(self._spaces)
        core = ModuleCore(tuple(contents), m, n, tuple(s), lambda: vectors, kept)
        self._known[index] = replace(core, _read=self._kept(index, vectors, slice(0, len(s))))
        return core

    def _kept(self, index: int, vectors: Vectors, tasks: slice) -> Callable[[], Vectors]:
        """Return a function that returns the vectors of some tasks again.

        It keeps the vectors if there is room, and reads the adapters again otherwise.
        """
        if self._vectors.take(sum(x.nbytes for x in vectors)):
            return lambda: vectors
        read = self._readers[index]
        return lambda: decomposed(part_of(read, tasks))[2]
