"""Methods that work on the rows of A and the columns of B as they are stored.

Their results change when a dW is factored in another way, ``B R^-1`` and ``R A``, which changes
nothing an adapter does; the registry says so. cat and svd, of PEFT as well, act on the product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from hydraopt.errors import AlignmentError, explain
from hydraopt.linalg.clusters import k_means
from hydraopt.linalg.shapes import Array, Factors
from hydraopt.linalg.svd import in_range
from hydraopt.methods.checked import checked
from hydraopt.methods.entries import elected, trimmed
from hydraopt.methods.small import (
    Merged,
    check_shapes,
    one_for_all,
    rank_for,
    small_core,
    weights_for,
)

__all__ = [
    "k_merge",
    "lora_lego",
    "peft_cat",
    "peft_linear",
    "peft_magnitude",
    "peft_svd",
    "peft_ties",
]

Combine = Callable[[Sequence[Array], Array], Array]


def _apart(
    factors: Sequence[Factors],
    weights: Sequence[float] | None,
    inner_scales: Sequence[float] | None,
    combine: Combine,
) -> Factors:
    """PEFT's way with both sides: A's and B's combined apart, with roots of weight times scale."""
    check_shapes(factors)
    ranks = {f.A.shape[0] for f in factors}
    if len(ranks) > 1:
        raise AlignmentError(
            explain(
                "adapters of different ranks cannot be combined factor by factor",
                got=f"ranks {sorted(ranks)}",
                expected="one rank",
                do="Use peft-svd or peft-cat",
            )
        )
    w = weights_for(weights, len(factors), 1 / len(factors))
    inner = weights_for(inner_scales, len(factors), 1.0, what="inner scales")
    strength = w * inner
    root = np.sqrt(np.abs(strength))
    stored = [f.B / s if s else f.B for f, s in zip(factors, inner, strict=True)]
    a = combine([f.A for f in factors], root * np.where(strength < 0, -1.0, 1.0))
    return Factors(combine(stored, root), a)


def _sum(matrices: Sequence[Array], weights: Array) -> Array:
    total: Array = np.tensordot(weights, np.stack(matrices), 1)
    return total


@checked
def peft_linear(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    inner_scales: Sequence[float] | None = None,
) -> Merged:
    """PEFT's ``linear``: A = sum sqrt(w s) A_t, B = sum sqrt(w s) B_t, so products of different
    tasks mix, and two equal adapters at 1/2 each come out doubled.

    inner_scales: the scales inside the B's, which PEFT has apart. weights: default 1/T. Raises
    AlignmentError for different ranks.
    """
    return one_for_all(_apart(factors, weights, inner_scales, _sum), len(factors))


@checked
def peft_ties(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    inner_scales: Sequence[float] | None = None,
) -> Merged:
    """PEFT's ``ties``: TIES on the A's and on the B's apart; see :func:`peft_linear`."""

    def combine(matrices: Sequence[Array], w: Array) -> Array:
        return elected([trimmed(matrix, density) for matrix in matrices], w)

    return one_for_all(_apart(factors, weights, inner_scales, combine), len(factors))


@checked
def peft_magnitude(
    factors: Sequence[Factors],
    weights: Sequence[float] | None = None,
    density: float = 0.5,
    inner_scales: Sequence[float] | None = None,
) -> Merged:
    """PEFT's ``magnitude_prune``: A's and B's trimmed and summed apart; see :func:`peft_linear`."""

    def combine(matrices: Sequence[Array], w: Array) -> Array:
        return _sum([trimmed(matrix, density) for matrix in matrices], w)

    return one_for_all(_apart(factors, weights, inner_scales, combine), len(factors))


@checked
def peft_cat(factors: Sequence[Factors], weights: Sequence[float] | None = None) -> Merged:
    """PEFT's ``cat``: factors one below the other, exactly the weighted sum, of rank sum r."""
    check_shapes(factors)
    w = weights_for(weights, len(factors), 1 / len(factors))
    a = np.concatenate([weight * f.A for f, weight in zip(factors, w, strict=True)])
    return one_for_all(Factors(np.concatenate([f.B for f in factors], 1), a), len(factors))


@checked
def peft_svd(
    factors: Sequence[Factors], weights: Sequence[float] | None = None, rank: int | None = None
) -> Merged:
    """PEFT's ``svd``: the weighted sum (default 1/T each) cut to ``rank``, default the largest."""
    core = small_core(factors)
    w = weights_for(weights, len(factors), 1 / len(factors))
    common, added = core.lift(core.weighted(w), rank_for(rank, factors))
    return one_for_all(common, len(factors), added)


@checked
def lora_lego(
    factors: Sequence[Factors], rank: int | None = None, seed: int = 0, reweight: bool = True
) -> Merged:
    """LoRA-LEGO: k-means over the rank-one units of all tasks; the centres are the merged adapter.

    Zhao et al., ICLR 2025, arXiv 2409.16167. A unit is the row a_j of A with the column b_j of B;
    ``rank`` clusters, default the largest rank. reweight: the paper's two corrections, as read from
    its description: a centre is stretched to the mean length of its units, and the product is
    multiplied by sqrt(r / k) with r the mean rank of the tasks, which is 1 for k = r.
    """
    check_shapes(factors)
    units = in_range(np.concatenate([np.hstack([f.A, f.B.T]) for f in factors]))
    k = min(rank_for(rank, factors), len(units))
    # Near 1, by a power of two: squares of the units themselves may leave the range.
    near = np.ldexp(units, -int(np.frexp(np.abs(units).max(initial=0.0))[1]))
    labels = k_means(near, k, np.random.default_rng(seed))
    n = factors[0].A.shape[1]
    centres = []
    for c in range(k):
        own = units[labels == c]
        centre = own.mean(axis=0)
        length = float(np.linalg.norm(centre))
        if reweight and length > 0:
            centre = centre * (np.linalg.norm(own, axis=1).mean() / length)
        centres.append(centre)
    merged = np.stack(centres)
    mean_rank = sum(f.A.shape[0] for f in factors) / len(factors)
    strength = math.sqrt(mean_rank / k) if reweight else 1.0
    return one_for_all(Factors(strength * merged[:, n:].T, merged[:, :n]), len(factors))


@checked
def k_merge(
    factors: Sequence[Factors],
    clusters: int | None = None,
    inner_scales: Sequence[float] | None = None,
) -> Merged:
    """K-Merge: adapters arrive one by one, and once ``clusters`` are kept a new one joins the most
    similar; default half of the tasks.

    Shenaj et al., ACL 2026, arXiv 2510.13537, with the authors' code: likeness is the cosine of the
    dW's, and a cluster is the running mean of its adapters by PEFT's ``linear``, with its mixed
    products. The paper takes the mean cosine over all layers and so one choice for the whole
    adapter; here each module chooses for itself. The order of the tasks is that of their arrival.
    Raises AlignmentError where different ranks meet in a cluster.
    """
    check_shapes(factors)
    budget = -(-len(factors) // 2) if clusters is None else clusters
    inner = weights_for(inner_scales, len(factors), 1.0, what="inner scales")
    kept: list[tuple[Factors, float, int]] = []
    labels: list[int] = []
    for f, scale in zip(factors, inner, strict=True):
        if len(kept) < budget:
            labels.append(len(kept))
            kept.append((f, float(scale), 1))
            continue
        likeness = [_cosine(f, other) for other, _, _ in kept]
        c = int(np.argmax(likeness))
        mean, strength, count = kept[c]
        share = 1 / (count + 1)
        joined = _apart([mean, f], [1 - share, share], [strength, float(scale)], _sum)
        kept[c] = (joined, 1.0, count + 1)
        labels.append(c)
    return Merged(tuple(kept[c][0] for c in labels), (1.0,) * len(factors))


def _cosine(one: Factors, other: Factors) -> float:
    length = math.sqrt(one.squared_norm() * other.squared_norm())
    return one.inner(other) / length if length > 0 else 0.0
