"""Core of a module: thin SVDs of its tasks, shared spaces, families of tasks.

A basis over all tasks holds directions of each, and every coordinate over it has to be paid for.
One of a few tasks is small: these have all of theirs in it, and the others what they share with
them. Which family is worth a basis depends on the price of a bit: the finer the coding, the fewer
tasks.

All planning happens in coordinates of these cores: nothing of size m x n is formed, and the result
does not depend on how a dW was factored.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec.matrices import (
    STORED_IN_FLOAT32,
    Array,
    Basis,
    Factors,
    Thin,
    significant,
    thin_stack,
)

MOST_DIRECTIONS = 512
"""Beyond, so many, the strongest. In the sets so far no basis of more has paid."""
_CHANCE = 1.05
"""Times what chance makes, up to which tasks count as having nothing in common."""
SPARE, ROUNDS = 32, 3
"""Directions tried beyond those asked for, and power iterations, of the randomised method."""

Stacked = NDArray[np.float32]


def _by_task(rows: Array, scales: Sequence[Array]) -> list[Array]:
    edges = np.cumsum([0, *(s.size for s in scales)])
    return [rows[a:b] for a, b in itertools.pairwise(edges)]


def by_chance(stacked: Stacked, d: Array, scales: Sequence[Array]) -> bool:
    """Return whether tasks' vectors ``stacked * d`` have no more in common than random ones.

    Then no basis saves anything, since independent sources are best coded apart.
    Of random vectors of this length the squared inner products sum up to the product of the tasks'
    energies over the length.

    scales: d by task, in any unit.
    """
    weight = d.astype(np.float32)
    gram = (stacked.T @ stacked) * np.outer(weight, weight)
    energies = np.array([float(x @ x) for x in _by_task(d, scales)])
    others = energies.sum() ** 2 - energies @ energies
    overlap = float(np.linalg.norm(gram)) ** 2 - float(np.sum(d**4))
    return overlap * len(stacked) < _CHANCE * float(others)


def by_scatter(stacked: Stacked, d: Array) -> tuple[Array, Array]:
    """Return all N eigenvalues of ``X X^T`` (N, N) and the vectors, as :func:`strongest` does.

    For more vectors than they have numbers. Eigenvalues near 0 have no useful vectors.
    """
    x = stacked * d
    energy, u = np.linalg.eigh(x @ x.T)
    return energy, (x.T @ u) / np.sqrt(np.maximum(energy, 1e-300))


def strongest(stacked: Stacked, d: Array) -> tuple[Array, Array]:
    """Return the largest eigenvalues of ``X^T X`` for X = stacked * d, rising, and vectors (S, q).

    By the randomised range finder, from one start always: O(N S q) where all directions take
    O(N S^2 + S^3). In float32, so what is below 1e-5 of the largest value is rounding.

    Source: Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011,
    arXiv 0909.4061, algorithm 4.4. Columns are made orthonormal once a round: those of X^T left are
    graded by size, which the next QR stands.
    """
    n, size = stacked.shape
    unit = float(d.max()) or 1.0  # Any weight is allowed, and its square need not be a float32.
    x = stacked * (d / unit).astype(np.float32)
    tried = min(MOST_DIRECTIONS + SPARE, n, size)
    probe = np.random.default_rng(0).standard_normal((size, tried), dtype=np.float32)
    for _ in range(ROUNDS):
        probe = x.T @ np.linalg.qr(x @ probe)[0]
    rows = np.linalg.qr(probe)[0]
    image = (x @ rows).astype(np.float64)
    energy, turn = np.linalg.eigh(image.T @ image)
    return energy[-MOST_DIRECTIONS:] * unit**2, rows @ turn[:, -MOST_DIRECTIONS:]


Family = NDArray[np.int64]
"""Tasks of a module that belong to a family, in rising order."""

MOST_TASKS: Final = 256
"""Number of tasks above which no families are sought.
Joining more tasks step by step would take longer than planning."""
_CLOSER: Final = 1.25
"""Minimum ratio of the mean overlap within a family to the mean one of any two tasks."""
_MOST_TOGETHER: Final = 1 << 19
"""Inner products of vectors that are computed at once."""


def families_of(sides: Sequence[Stacked], values: Sequence[Array]) -> tuple[Family, ...]:
    """Return a family of 2 or 3 tasks, one of 4 to 7, of 8 to 15 and so on, below all tasks.

    Of each size class it is the family in which a task has most in common with the others; a class
    without any is left out.

    The closest two are joined, tasks or families, until all are one (average linkage; Sokal and
    Michener 1958). sides: the tasks' singular vectors side by side, (N, sum r) each. values: their
    singular values.
    """
    tasks = len(values)
    if not 2 < tasks <= MOST_TASKS or not all(s.size for s in values):
        return ()
    alike = np.zeros((tasks, tasks))
    for stacked in sides:
        alike += _overlaps(stacked, values)
    least = _CLOSER * float(alike.sum()) / (tasks * (tasks - 1))
    best: dict[int, tuple[float, Family]] = {}
    for family, mean in _joined(alike):
        size, common = family.size.bit_length(), mean * (family.size - 1)
        if family.size < tasks and mean > least and common > best.get(size, (0.0, family))[0]:
            best[size] = common, family
    return tuple(best[size][1] for size in sorted(best))


def _joined(alike: Array) -> list[tuple[Family, float]]:
    """Return every family that arises, and the mean overlap of two of its tasks."""
    links, made = alike.copy(), []
    np.fill_diagonal(links, -1.0)
    members = [np.array([i]) for i in range(len(alike))]
    for _ in range(len(alike) - 1):
        one, other = sorted(map(int, divmod(int(links.argmax()), len(links))))
        sizes = members[one].size, members[other].size
        members[one] = np.sort(np.concatenate([members[one], members[other]]))
        mean = (sizes[0] * links[one] + sizes[1] * links[other]) / sum(sizes)
        mean[links[one] < 0] = -1.0  # those that have gone, and itself
        links[one] = links[:, one] = mean
        links[other] = links[:, other] = -1.0
        links[one, one] = -1.0
        inside = alike[np.ix_(members[one], members[one])]
        made.append((members[one], float(inside.sum()) / (inside.size - len(inside))))
    return made


def _overlaps(stacked: Stacked, values: Sequence[Array]) -> Array:
    """Return cosines between the scatters ``sum_i s_i^2 v_i v_i^T`` of one side, (tasks, tasks).

    They are 0 to 1; 0 for a task with itself and with a task of zeros.
    """
    edges = np.cumsum([0, *(s.size for s in values)])
    units = [s / (float(s.max()) or 1.0) for s in values]
    weights = np.concatenate(units).astype(np.float32)
    scaled = stacked * weights
    sums = np.empty((len(values), len(values)))
    most = max(_MOST_TOGETHER // max(scaled.shape[1], 1), 1)  # all products at once may not fit
    for some in _runs(edges, most):
        rows = scaled[:, edges[some.start] : edges[some.stop]].T @ scaled
        across = np.add.reduceat(np.square(rows, out=rows), edges[:-1], axis=1)
        starts = edges[some] - edges[some.start]
        sums[some] = np.add.reduceat(across.astype(np.float64), starts, axis=0)
    own = np.sqrt(np.maximum(np.diag(sums), 1e-300))
    cosines: Array = sums / np.outer(own, own)
    np.fill_diagonal(cosines, 0.0)
    return cosines


def _runs(edges: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Yield runs of tasks with at most ``most`` vectors together, or of one task."""
    first = 0
    while first < len(edges) - 1:
        last = max(int(np.searchsorted(edges, edges[first] + most, "right")) - 1, first + 1)
        yield slice(first, last)
        first = last


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
    """Blocks; a module of very many tasks has more, see hydraopt.codec.blocks."""

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
        """Tasks that a basis of their own is tried of, see hydraopt.codec.core."""
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
