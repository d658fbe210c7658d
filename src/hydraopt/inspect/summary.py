"""Comparison of tasks in each module, condensed: by type, and the most remarkable modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "Extreme",
    "ModuleComparison",
    "Saving",
    "TypeComparison",
    "by_type",
    "extremes",
    "module_type",
]


@dataclass(frozen=True)
class Saving:
    """Estimated bytes of one module, or of several, at one price of a bit.

    bytes: with all forms. private_bytes: with the private form alone.
    saved_bytes: what shared forms save at equal cost. saved: its share of private_bytes.
    """

    bytes: float
    private_bytes: float
    saved_bytes: float
    saved: float


@dataclass(frozen=True)
class ModuleComparison:
    """Likeness of the tasks in one module (m, n). Likeness is None where it is not defined.

    tasks: names of the tasks that have the module.
    a_cosine, b_cosine, product_cosine: means over pairs of tasks, of A, B and dW.
    input_overlap, output_overlap: means over pairs, of the row and column spaces of dW;
        input_chance, output_chance: the same of random spaces.
    norm: Frobenius norm over all tasks. sharing: None if no size was coded.
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
    sharing: Saving | None


@dataclass(frozen=True)
class TypeComparison:
    """Means over the modules of one type and shape, as in :class:`ModuleComparison`.

    modules: number of them. rank, rank90, rank99: means over modules and contents.
    sharing: sums over modules.
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
    sharing: Saving | None


@dataclass(frozen=True)
class Extreme:
    """Module with the highest or lowest value of a measure."""

    what: str
    path: str
    value: float


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
            _total([row.sharing for row in rows if row.sharing]),
        )
        for key, rows in groups.items()
    ]


def _total(savings: Sequence[Saving]) -> Saving | None:
    """Return the sums over modules; None for no modules."""
    if not savings:
        return None
    private, saved = (sum(x.private_bytes for x in savings), sum(x.saved_bytes for x in savings))
    every = sum(x.bytes for x in savings)
    return Saving(every, private, saved, saved / private if private else 0.0)


def extremes(modules: Sequence[ModuleComparison]) -> list[Extreme]:
    """Return the modules that stand out."""
    found: list[Extreme] = []

    def add(what: str, values: Sequence[tuple[float | None, str]], largest: bool) -> None:
        known = [(value, path) for value, path in values if value is not None]
        if known:
            value, path = (max if largest else min)(known)
            found.append(Extreme(what, path, value))

    for name, values in {
        "cosine of the A's": [(x.a_cosine, x.path) for x in modules],
        "cosine of the B's": [(x.b_cosine, x.path) for x in modules],
        "cosine of the products": [(x.product_cosine, x.path) for x in modules],
        "overlap of the row spaces": [(x.input_overlap, x.path) for x in modules],
    }.items():
        add(f"highest {name}", values, True)
        add(f"lowest {name}", values, False)
    ranks = [(_mean(x.rank99), x.path) for x in modules]
    add("most parts for 99 % of the energy", ranks, True)
    add("fewest parts for 99 % of the energy", ranks, False)
    saved = [(x.sharing.saved, x.path) for x in modules if x.sharing and x.sharing.saved > 0]
    add("largest share saved by sharing", saved, True)
    return found
