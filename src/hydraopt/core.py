"""The small core of a module: every task's thin SVD, and what the tasks have in common.

All planning happens in coordinates of these cores: nothing of size m x n is formed, and the result
does not depend on how a dW was factored (DESIGN: "everything happens in the small core").
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hydraopt.types import Array, Thin, thin

__all__ = ["CoreStore", "ModuleCore", "SharedSpace", "Source"]


@dataclass(frozen=True)
class SharedSpace:
    """Principal directions of one side over all tasks, strongest first.

    values (q,): weighted singular values, ``sigma_i^2 = sum_t w_t |dW_t v_i|^2``.
    coordinates: for each task, ``V_t^T V`` (r_t, q): its singular vectors in these directions.
    mix (sum r, q): the directions themselves are ``[V_1 ... V_T] mix``, (N, q).
    """

    values: Array
    coordinates: list[Array]
    mix: Array


def _shared_space(gram: Array, scales: Sequence[Array], most: int) -> SharedSpace:
    """From the Gram matrix of the tasks' stacked singular vectors and their weighted values; at
    most ``most`` directions, the length of these vectors."""
    d = np.concatenate(scales)
    if d.size == 0:
        nothing = np.zeros((0, 0))
        return SharedSpace(np.zeros(0), [nothing for _ in scales], nothing)
    energy, w = np.linalg.eigh(gram * np.outer(d, d))
    # The vectors are kept in float32, so directions below 1e-7 of the largest are its rounding.
    keep = np.flatnonzero(energy > 1e-13 * max(energy[-1], 1e-300))[::-1][:most]
    values = np.sqrt(energy[keep])
    mix = d[:, None] * w[:, keep] / values
    edges = np.cumsum([0, *(s.size for s in scales)])
    coordinates = gram @ mix
    parts = [coordinates[a:b] for a, b in itertools.pairwise(edges)]
    return SharedSpace(values, parts, mix)


@dataclass(frozen=True)
class ModuleCore:
    """One module over the tasks that have it (T' of them, each with r_t parts).

    contents: which contents (distinct adapters) these are. U (m, sum r), V (n, sum r): the thin
    SVDs' factors side by side, float32. s: the singular values of each, float64.
    """

    index: int
    contents: tuple[int, ...]
    U: NDArray[np.float32]
    V: NDArray[np.float32]
    s: tuple[Array, ...]
    _spaces: dict[tuple[float, ...], tuple[SharedSpace, SharedSpace]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def m(self) -> int:
        return int(self.U.shape[0])

    @property
    def n(self) -> int:
        return int(self.V.shape[0])

    @cached_property
    def _edges(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(s.size for s in self.s)])

    def thin(self, i: int) -> Thin:
        """Thin SVD of the i-th task of this module, float64."""
        a, b = self._edges[i], self._edges[i + 1]
        return Thin(self.U[:, a:b].astype(np.float64), self.s[i], self.V[:, a:b].astype(np.float64))

    @cached_property
    def _grams(self) -> tuple[Array, Array]:
        # In float64: float32 would add directions of its own, 3e-4 of the largest.
        U, V = self.U.astype(np.float64), self.V.astype(np.float64)
        return U.T @ U, V.T @ V

    def spaces(self, weights: Sequence[float]) -> tuple[SharedSpace, SharedSpace]:
        """(left, right) shared spaces for task weights w_t, one for each task of this module."""
        # Most passes differ in the price alone, so the last weights' spaces are kept.
        key = tuple(weights)
        if key in self._spaces:
            return self._spaces[key]
        scales = [s * np.sqrt(w) for s, w in zip(self.s, weights, strict=True)]
        left, right = self._grams
        found = _shared_space(left, scales, self.m), _shared_space(right, scales, self.n)
        self._spaces.clear()
        self._spaces[key] = found
        return found

    def directions(self, space: SharedSpace, side: str, q: int) -> Array:
        """The first q directions of a space, (N, q), float64."""
        stacked = self.U if side == "left" else self.V
        return stacked.astype(np.float64) @ space.mix[:, :q]

    @property
    def nbytes(self) -> int:
        """Bytes held, for the store's limit; Gram matrices and shared spaces included."""
        r = self.U.shape[1]
        return int(self.U.nbytes + self.V.nbytes + 48 * r * r)


Source = Callable[[], Iterator[tuple[int, Array, Array]]]
"""A module's factors on demand: yields (content, B with scale (m, r), A (r, n))."""


class CoreStore:
    """Cores of all modules, kept up to ``limit`` bytes and computed again beyond that."""

    def __init__(self, sources: Sequence[Source], limit: int = 96 << 20) -> None:
        self._sources = sources
        self._kept: dict[int, ModuleCore] = {}
        self._room = limit

    def __len__(self) -> int:
        return len(self._sources)

    def core(self, index: int) -> ModuleCore:
        """The core of module ``index``; safe to call from several threads on different modules."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        contents, us, vs, ss = [], [], [], []
        for content, b, a in self._sources[index]():
            t = thin(b.astype(np.float64), a.astype(np.float64))
            contents.append(content)
            us.append(t.U.astype(np.float32))
            vs.append(t.V.astype(np.float32))
            ss.append(t.s)
        core = ModuleCore(
            index, tuple(contents), np.concatenate(us, 1), np.concatenate(vs, 1), tuple(ss)
        )
        if core.nbytes <= self._room:
            self._room -= core.nbytes
            self._kept[index] = core
        return core
