"""Comparison of tasks in each module, and by type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "ModuleComparison",
    "TypeComparison",
    "by_type",
    "module_type",
]


@dataclass(frozen=True)
class ModuleComparison:
    """Likeness of the tasks in one module (m, n). Likeness is None where it is not defined.

    tasks: names of the tasks that have the module.
    a_cosine, b_cosine, product_cosine: means over pairs of tasks, of A, B and dW.
    input_overlap, output_overlap: means over pairs, of the row and column spaces of dW;
        input_chance, output_chance: the same of random spaces.
    norm: Frobenius norm over all tasks.
    ranks, rank90, rank99: by content, all parts, and the parts that hold 90 and 99 % of the energy.
    spectrum: share of the energy in the k largest parts, k = 1..max rank, mean over contents.
    """

    path: str
    type: str
    kind: str
    m: int
    n: int
    tasks: tuple[str, ...]
    a_cosine: float | None
    b_cosine: float | None
    product_cosine: float | None
    input_overlap: float | None
    input_chance: float
    output_overlap: float | None
    output_chance: float
    norm: float
    ranks: tuple[int, ...]
    rank90: tuple[int, ...]
    rank99: tuple[int, ...]
    spectrum: tuple[float, ...]


@dataclass(frozen=True)
class TypeComparison:
    """Means over the modules of one type and shape, as in :class:`ModuleComparison`.

    modules: number of them. rank, rank90, rank99: means over modules and contents.
    """

    type: str
    m: int
    n: int
    modules: int
    a_cosine: float | None
    b_cosine: float | None
    product_cosine: float | None
    input_overlap: float | None
    output_overlap: float | None
    input_chance: float | None
    output_chance: float | None
    rank: float
    rank90: float
    rank99: float


def module_type(path: str) -> str:
    """Return the path with numbers as stars: modules of one kind in all layers have one type.

    >>> module_type("model.layers.12.self_attn.q_proj")
    'model.layers.*.self_attn.q_proj'
    """
    return re.sub(r"(?<![^.:_])\d+(?![^.:_])", "*", path)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if known else None


def by_type(modules: Sequence[ModuleComparison]) -> list[TypeComparison]:
    """Combine the modules of each type and shape, in order of appearance."""
    groups: dict[tuple[str, int, int], list[ModuleComparison]] = {}
    for row in modules:
        groups.setdefault((row.type, row.m, row.n), []).append(row)
    return [
        TypeComparison(
            *key,
            len(rows),
            _mean(row.a_cosine for row in rows),
            _mean(row.b_cosine for row in rows),
            _mean(row.product_cosine for row in rows),
            _mean(row.input_overlap for row in rows),
            _mean(row.output_overlap for row in rows),
            _mean(row.input_chance for row in rows),
            _mean(row.output_chance for row in rows),
            _mean(x for row in rows for x in row.ranks) or 0.0,
            _mean(x for row in rows for x in row.rank90) or 0.0,
            _mean(x for row in rows for x in row.rank99) or 0.0,
        )
        for key, rows in groups.items()
    ]
