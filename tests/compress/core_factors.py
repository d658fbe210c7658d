"""Random low-rank factors with known structure, and the short way through planner and encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hydraopt.codec import (
    Array,
    CoreStore,
    Drawn,
    EncodedModule,
    Factors,
    KnownStart,
    Measure,
    ModuleCore,
    ModulePlan,
    Starts,
    encode_module,
    modes_of,
    plan_module,
)
from hydraopt.codec.costs import MEASURES

Pair = tuple[Array, Array]


def orthonormal(rng: np.random.Generator, length: int, count: int) -> Array:
    """(length, count), orthonormal columns."""
    return np.linalg.qr(rng.standard_normal((length, count)))[0]


def low_rank(
    rng: np.random.Generator,
    m: int,
    n: int,
    r: int,
    *,
    left: Array | None = None,
    right: Array | None = None,
    decay: float = 0.8,
) -> Pair:
    """(B, A) of rank r with falling singular values; left (m, q), right (n, q): the spaces that
    the product's columns and rows are drawn from, by default everything."""
    u = orthonormal(rng, m, r) if left is None else left @ orthonormal(rng, left.shape[1], r)
    v = orthonormal(rng, n, r) if right is None else right @ orthonormal(rng, right.shape[1], r)
    return u * decay ** np.arange(r), v.T.copy()


def core_of(pairs: Sequence[Pair]) -> ModuleCore:
    """One module with these tasks."""

    def read() -> Iterator[tuple[int, Factors]]:
        for i, (b, a) in enumerate(pairs):
            yield i, Factors(b, a)

    return CoreStore([read]).core(0)


def planned(
    pairs: Sequence[Pair],
    price: float,
    forms: Sequence[str],
    measure: Measure = MEASURES["frobenius"],
) -> tuple[ModuleCore, ModulePlan]:
    """A module planned at a price, each task's harm relative to its own norm."""
    core = core_of(pairs)
    weights = [1 / max(float(s @ s), 1e-300) for s in core.s]
    modes = modes_of(forms)
    return core, plan_module(core, weights, price, measure, modes, None, starts_of(pairs, forms))


def starts_of(pairs: Sequence[Pair], forms: Sequence[str]) -> Starts | None:
    """A start for each task, if the forms need one."""
    if "started" not in forms:
        return None
    starts = [KnownStart(i, a.size) for i, (_, a) in enumerate(pairs)]
    return Starts({i: Drawn(x, 0, len(pairs[i][1])) for i, x in enumerate(starts)})


def encoded(
    pairs: Sequence[Pair],
    price: float,
    forms: Sequence[str],
    measure: Measure = MEASURES["frobenius"],
) -> EncodedModule:
    """A module planned and encoded."""
    core, plan = planned(pairs, price, forms, measure)
    return encode_module(core, plan, measure, None, 1, starts_of(pairs, forms))


def dense(pair: Any) -> Array:
    """B A, formed."""
    b, a = (pair.B, pair.A) if isinstance(pair, Factors) else pair
    return b @ a


def relative_error(got: Any, wanted: Any) -> float:
    """Frobenius norm of the difference over that of ``wanted``."""
    return float(np.linalg.norm(dense(got) - dense(wanted)) / np.linalg.norm(dense(wanted)))
