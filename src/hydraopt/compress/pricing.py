"""Inner loops of the planner: the best spread classes of every part of a module in one mode.

Compiled, and lent all arrays that they write to. A side comes as three arrays: the head and the
shares of a SideCost, and the classes of the curve that it is refined along.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.compiled import INNER, njit
from hydraopt.compress.curve import FIRST_CLASS
from hydraopt.compress.measure import left_noise, part_cost
from hydraopt.kernels import kernel
from hydraopt.linalg.shapes import Array

__all__ = ["price_mode", "side_at"]

Classes = NDArray[np.int64]
_Side = tuple[Classes, Array, Classes]

_DIP: Final = 0.6
"""Bits a number that a finer class may take less where predictions are written, at most: where a
prediction errs less, what is left to be written is written more coarsely."""

_FRACTION: Final = (1 << 52) - 1
"""Bits of a float64's fraction."""
_ONE, _TWO = (int(np.float64(2.0**x).view(np.int64)) & _FRACTION for x in (0.25, 0.75))
"""Fractions from which on twice the logarithm is rounded to 1 and to 2."""

# The measure's formulas, compiled into the loops below.
_part_cost = njit(**INNER)(part_cost)
_left_noise = njit(**INNER)(left_noise)


@njit(**INNER)
def _clipped(table: Array, index: int) -> float:
    """Return an entry, or the one at the nearer end."""
    return float(table[min(max(index, 0), table.size - 1)])


@njit(**INNER)
def _half_octaves(x: float) -> int:
    """Return ``2 log2(x)``, rounded, of a positive number, from its bits."""
    bits = np.float64(x).view(np.int64)
    fraction = bits & _FRACTION
    return int(2 * ((bits >> 52) - 1023) + (fraction >= _ONE) + (fraction >= _TWO))


@njit(**INNER)
def side_at(
    head: Classes, shares: Array, part: int, spread: int, rates: Array, noises: Array
) -> tuple[float, float, float]:
    """Return the bits, noise and lost effect of one side of a part at a spread class.

    The noise is relative to the part's energy; the lost effect is the share of it that no
    coefficient brings back.

    head, shares: of a SideCost. rates, noises: by class.
    """
    way, length, q, wider = head[0], head[1], head[2], head[3]
    bits = length * _clipped(rates, spread)
    noise = _clipped(noises, spread)
    gone = 0.0
    if way == 1:
        bits = q * _clipped(rates, spread)
        noise += shares[1, part]
        gone = shares[0, part]
    elif way == 2:
        lost = shares[0, part]
        # The own numbers mend what the rounding of basis and coordinates leaves, too.
        within = shares[1, part] + _clipped(noises, spread + wider)
        shift = _half_octaves(max(lost + within, 1e-9))
        finer = min(spread + shift, spread)
        bits = length * _clipped(rates, finer) + q * _clipped(rates, spread + wider)
        # One coefficient scales prediction and own numbers alike, so it cannot undo the shrinking
        # of the own ones alone: of what the basis misses a share is lost effect, and the rest is
        # noise. Where own numbers are too small to be written, all of it is lost.
        own = _clipped(noises, finer)
        share = own / (1 + own) if finer >= FIRST_CLASS else 1.0
        noise = share * within + lost * share * (1 - share)
        gone = lost * share**2
    return bits, noise, gone


@njit(**INNER)
def _cheapest(
    energy: Array,
    left: _Side,
    right: _Side,
    tables: tuple[Array, Array],
    weighed: Array,
    priced: Array,
    best: Classes,
) -> None:
    """Choose for each part the point of the curve with the least cost + price * bits.

    best (P,): the choice; priced (3, P): its cost, its bits, and the explained energy.
    """
    lost, projected, output = weighed[0], weighed[1], weighed[2]
    price, fixed = weighed[3], weighed[4]
    rates, noises = tables
    dip = _DIP * ((left[0][0] == 2) * left[0][1] + (right[0][0] == 2) * right[0][1])
    for part in range(energy.size):
        of_left, of_right = min(part, left[1].shape[1] - 1), min(part, right[1].shape[1] - 1)
        # What costs more than leaving the part out is no choice.
        least = lost * energy[part]
        best[part], priced[0, part], priced[1, part] = 0, least, 0.0
        a0, a1, a2 = side_at(left[0], left[1], of_left, left[2][0], rates, noises)
        b0, b1, b2 = side_at(right[0], right[1], of_right, right[2][0], rates, noises)
        explained = energy[part] * (1 - a2) * (1 - b2)
        for choice in range(left[2].size):
            # One side is refined at a time.
            if choice > 0 and left[2][choice] != left[2][choice - 1]:
                a0, a1, a2 = side_at(left[0], left[1], of_left, left[2][choice], rates, noises)
            elif choice > 0:
                b0, b1, b2 = side_at(right[0], right[1], of_right, right[2][choice], rates, noises)
            bits = a0 + b0 + fixed
            if price * (bits - dip) > least:
                break
            noise, kept = _left_noise(a1, output) + b1, (1 - a2) * (1 - b2)
            cost = _part_cost(energy[part], kept, noise, lost, projected)
            if cost + price * bits < least:
                least = cost + price * bits
                best[part], priced[0, part], priced[1, part] = choice, cost, bits
        priced[2, part] = explained


@kernel(
    "float64[:]",
    "int64[:]",
    *["int64[:]", "float64[:,:]", "int64[:]"] * 2,
    *["float64[:]"] * 3,
    "float64[:,:]",
    "int64[:,:]",
    "int64[:,:]",
    "int64[:]",
    "float64[:,:]",
)
def price_mode(
    energy: Array,
    edges: Classes,
    left_head: Classes,
    left_shares: Array,
    left_classes: Classes,
    right_head: Classes,
    right_shares: Array,
    right_classes: Classes,
    rates: Array,
    noises: Array,
    weighed: Array,
    priced: Array,
    orders: Classes,
    classes: Classes,
    counts: Classes,
    sums: Array,
) -> None:
    """Compute the best classes of all parts of all tasks in one mode, and the kept parts.

    energy (P,): of the parts; those of task t are at edges[t] to edges[t + 1]. rates, noises: by
    class. weighed: lost, projected and output of a measure, the price of a bit, bits of a part
    beside its sides, bits of a record. priced (3, P), orders (2, P): scratch. Outputs: classes
    (2, P) of both sides, in the order in which a task's parts are written; counts (T,), how many
    parts pay; sums (2, T), cost and bits.
    """
    left = left_head, left_shares, left_classes
    right = right_head, right_shares, right_classes
    best, order = orders[0], orders[1]
    _cheapest(energy, left, right, (rates, noises), weighed, priced, best)
    for t in range(edges.size - 1):
        # Parts are written from the one that explains most on, equal ones as they come.
        for i in range(edges[t], edges[t + 1]):
            j = i
            while j > edges[t] and priced[2, order[j - 1]] < priced[2, i]:
                order[j] = order[j - 1]
                j -= 1
            order[j] = i
        ended = False
        sums[1, t] = weighed[5]
        for i in range(edges[t], edges[t + 1]):
            part = order[i]
            classes[0, i], classes[1, i] = left_classes[best[part]], right_classes[best[part]]
            # A prefix, so that "the first k" says it all.
            cut = weighed[0] * energy[part]
            ended |= priced[0, part] + weighed[3] * priced[1, part] >= cut
            if ended:
                sums[0, t] += cut
            else:
                sums[0, t] += priced[0, part]
                sums[1, t] += priced[1, part]
                counts[t] += 1
