"""Statistics of counts: intervals of shares, exact tests, and corrections for many tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Share",
    "Tested",
    "binomial_p",
    "correct",
    "holm",
    "share_of",
    "wilson",
]

_Z = 1.959963984540054
"""Quantile of the normal distribution at 97.5 %."""


@dataclass(kw_only=True)
class Share:
    """A share of one in percent, with its 95 % interval by Wilson."""

    pct: float
    low: float
    high: float


@dataclass(kw_only=True)
class Tested:
    """An exact two-sided p, and p_holm, its correction by :func:`correct`."""

    p: float
    p_holm: float = 1.0


def correct(tests: Sequence[Tested]) -> None:
    """Correct the p of all tests together by Holm's method, and round both to six places."""
    for test, corrected in zip(tests, holm([test.p for test in tests]), strict=True):
        test.p, test.p_holm = round(test.p, 6), round(corrected, 6)


def share_of(count: int, total: int) -> dict[str, float]:
    """Return the fields of a :class:`Share`; zero percent of nothing.

    They are in percent, to three places.
    """
    low, high = wilson(count, total)
    share = count / total if total else 0.0
    values = {"pct": share, "low": low, "high": high}
    return {name: round(100 * value, 3) for name, value in values.items()}


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of one. Source: Wilson 1927, Probable Inference.

    >>> low, high = wilson(5, 10)
    >>> print(f"{low:.4f} {high:.4f}")
    0.2366 0.7634
    """
    if total == 0:
        return 0.0, 1.0
    share, squared = count / total, _Z * _Z
    middle = (share + squared / (2 * total)) / (1 + squared / total)
    spread = math.sqrt(share * (1 - share) / total + squared / (4 * total * total))
    half = _Z * spread / (1 + squared / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def binomial_p(count: int, total: int, chance: float = 0.5) -> float:
    """Return the exact two-sided p of ``count`` hits in ``total`` tries of this chance.

    It is 1 without tries. All outcomes that are no likelier than the one seen are summed. With
    chance 1/2 and flips of one kind among flips of both it is the sign test, and McNemar's exact
    one.
    """
    if total == 0:
        return 1.0
    k = np.arange(total + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    logs = factorials[total] - factorials - factorials[::-1]
    logs = logs + k * math.log(chance) + (total - k) * math.log1p(-chance)
    likely = np.exp(logs)
    return float(min(1.0, likely[likely <= likely[count] * (1 + 1e-7)].sum()))


def holm(values: Sequence[float]) -> list[float]:
    """Return the p values corrected for their number.

    The chance that any of those below 0.05 is wrong is at most 0.05.

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    made, most = [0.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        most = max(most, min(1.0, (len(values) - rank) * values[i]))
        made[i] = most
    return made
