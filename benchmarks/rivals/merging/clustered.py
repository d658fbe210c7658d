"""Merging methods that no library has and that put like units or like tasks together.

They work on the rows of A and the columns of B as they are stored: their results change when a dW
is factored in another way, ``B R^-1`` and ``R A``, which changes nothing an adapter does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.rivals.merging.by_peft import added
from benchmarks.rivals.merging.kmeans import k_means
from hydraopt.codec import Factors, in_range
from hydraopt.merging import Merged
from hydraopt.merging.hydra import check_shapes, rank_for, weights_for, whole

__all__ = ["k_merge", "lora_lego"]


def lora_lego(
    factors: Sequence[Factors], rank: int | None = None, seed: int = 0, reweight: bool = True
) -> Merged:
    """Merge by LoRA-LEGO: the centres of a k-means over the rank-one units of all tasks.

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
    common = Factors(strength * merged[:, n:].T, merged[:, :n])
    return Merged.one_for_all(common, len(factors))


def k_merge(
    factors: Sequence[Factors],
    clusters: int | None = None,
    inner_scales: Sequence[float] | None = None,
) -> Merged:
    """Merge by K-Merge: adapters arrive one by one, and late ones join the most similar.

    A new one joins once ``clusters`` are kept, default half of the tasks. Shenaj et al., ACL 2026,
    arXiv 2510.13537, with the authors' code: likeness is the cosine of the dW's, and a cluster is
    the running mean of its adapters by PEFT's ``linear``, with its mixed products. The paper takes
    the mean cosine over all layers and so one choice for the whole adapter; here each module
    chooses for itself. The order of the tasks is that of their arrival. PEFT refuses different
    ranks in a cluster.
    """
    check_shapes(factors)
    budget = -(-len(factors) // 2) if clusters is None else whole("number of clusters", clusters)
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
        joined = added("linear", [mean, f], [1 - share, share], [strength, float(scale)])
        kept[c] = (joined, 1.0, count + 1)
        labels.append(c)
    return Merged(tuple(kept[c][0] for c in labels), (1.0,) * len(factors))


def _cosine(one: Factors, other: Factors) -> float:
    length = math.sqrt(one.squared_norm() * other.squared_norm())
    return one.inner(other) / length if length > 0 else 0.0
