"""k-means in which every cluster has a member.

scipy.cluster.vq.kmeans2 may leave a cluster empty, or raise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec import Array
from hydraopt.merging.hydra import far_apart

__all__ = ["k_means"]

_MOST_ROUNDS = 100
_BLOCK = 1 << 18  # numbers whose differences are formed together


def k_means(points: Array, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return labels (N,) of Lloyd's iteration over ``points`` (N, d) from a k-means++ start.

    k is at most N. No cluster is empty: one without points takes the point that is farthest from
    its own centre and not alone there. Memory: as the points, and (N, k).
    """
    apart: Array = np.full(len(points), np.inf)

    def nearest(pick: int) -> Array:
        np.minimum(apart, np.sum((points - points[pick]) ** 2, axis=1), out=apart)
        return apart

    chosen = far_apart(k, int(rng.integers(len(points))), nearest, rng)
    centres, labels = points[chosen], np.full(len(points), -1)
    lengths = np.einsum("nd,nd->n", points, points)
    for _ in range(_MOST_ROUNDS):
        new, own = _nearest(points, lengths, centres)
        for c in range(k):
            if not np.any(new == c):
                alone = np.bincount(new, minlength=k)[new] == 1
                worst = int(np.where(alone, -1.0, own).argmax())
                new[worst], own[worst] = c, 0.0
        if np.array_equal(new, labels):
            break
        labels = new
        centres = np.stack([points[labels == c].mean(axis=0) for c in range(k)])
    return labels


def _nearest(points: Array, lengths: Array, centres: Array) -> tuple[NDArray[np.int64], Array]:
    """Return the nearest of centres (k, d) for each point, (N,), and the squared distances (N,).

    Of equal centres the first is taken. lengths (N,): squared lengths of the points.

    One product tells the distances to within rounding; where that leaves more than one centre,
    their distances are computed from the differences, and so is each that is handed back.
    """
    own = np.einsum("kd,kd->k", centres, centres)
    guess = lengths[:, None] - 2 * (points @ centres.T) + own
    # Sums of d products, each off by eps of its size at most, and a few more roundings.
    share = 4 * (points.shape[1] + 4) * float(np.finfo(np.float64).eps)
    off = share * (lengths + own.max())[:, None]
    # Of what left the range nothing is known, so it stays in the race.
    rows, picks = np.nonzero(~(guess - off > (guess + off).min(axis=1, keepdims=True)))
    far = np.empty(len(rows))
    step = max(_BLOCK // points.shape[1], 1)
    for i in range(0, len(rows), step):
        some = slice(i, i + step)
        far[some] = np.sum((points[rows[some]] - centres[picks[some]]) ** 2, axis=1)
    order = np.lexsort((picks, far, rows))
    first = order[np.searchsorted(rows[order], np.arange(len(points)))]
    return picks[first], far[first]
