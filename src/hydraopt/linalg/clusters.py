"""Choose the first centres of k-means++, for any distance.

scipy.cluster.vq.kmeans2 accepts points only, and no other distance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hydraopt.linalg.shapes import Array

__all__ = ["far_apart"]


def far_apart(
    count: int,
    first: Array | int,
    lost: Callable[[int], Array],
    rng: np.random.Generator | None,
) -> list[int]:
    """Draw ``count`` different items, far apart as in k-means++.

    first: the first item, or (N,) the odds of it, N >= count. lost: is told the item just taken and
    gives (N,), how far each item is from the nearest of those taken, the odds of the next. rng:
    None takes the largest odds each time. Where no odds are left, the first item not taken is next.
    Source: Arthur and Vassilvitskii, "k-means++", SODA 2007.
    """
    taken: list[int] = []
    if isinstance(first, int):
        taken, odds = [first], lost(first)
    else:
        odds = first
    while len(taken) < count:
        odds = np.maximum(odds, 0.0)
        odds[taken] = 0.0
        if rng is not None and odds.sum() > 0:
            pick = int(rng.choice(len(odds), p=odds / odds.sum()))
        else:
            odds[taken] = -1.0
            pick = int(odds.argmax())
        taken.append(pick)
        odds = lost(pick)
    return taken
