"""Bytes of one method over those of another at equal KL, with intervals and bounds."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from benchmarks.reports.same_rows import LEAST, Result, Values, picked
from benchmarks.rivals.base import METHOD

__all__ = [
    "LARGEST",
    "Compared",
    "Factor",
    "cell",
    "frontier",
    "geometric_mean",
    "has_curve",
    "says_nothing",
    "size_at",
]

_ROW_SAMPLES: Final = 100
_TASK_SAMPLES: Final = 10
"""Draws of tasks for each draw of rows."""
_WITH_CURVES: Final = (METHOD, "coded svd")
"""Start of the names of the methods that were measured at many sizes."""


LARGEST: Final = 0.6
"""Share of the fp16 bytes up to which rivals of few sizes are drawn and compared."""


def has_curve(method: str) -> bool:
    """Return whether a method's KL is known at many sizes."""
    return method.startswith(_WITH_CURVES)


class Factor(NamedTuple):
    """Log of the bytes of a method over those of one size of another, at the KL of that size.

    side: 1 for an upper bound, of a KL above those of all sizes of the method; -1 for a lower one.
    """

    log: float
    side: int

    def inverse(self) -> Factor:
        """Return the bytes of that size over the method's."""
        return Factor(-self.log, -self.side)


def geometric_mean(factors: Sequence[Factor]) -> float:
    """Return the geometric mean of some factors; bounds count as they are."""
    return math.exp(float(np.mean([x.log for x in factors])))


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return those of some points (bytes, KL) with less KL than all smaller ones, by bytes."""
    kept: list[tuple[float, float]] = []
    for size, kl in sorted(points):
        if not kept or kl < kept[-1][1]:
            kept.append((size, kl))
    return kept


def size_at(curve: Sequence[tuple[float, float]], kl: float) -> tuple[float, int]:
    """Return the bytes at a KL, and the side of :class:`Factor`. curve: as of :func:`frontier`."""
    (least, worst), (most, best) = curve[0], curve[-1]
    if not best < kl < worst:
        return (least, int(kl > worst)) if kl >= worst else (most, -int(kl < best))
    (small, high), (large, low) = next(x for x in itertools.pairwise(curve) if kl >= x[1][1])
    way = math.log(high / kl) / math.log(high / low)
    return small * math.exp(way * math.log(large / small)), 0


@dataclass(frozen=True)
class Compared:
    """One size of a method and all sizes of another, on the tasks that all were measured on.

    share, shares (S,): of the fp16 bytes, of the size and of the other method's sizes.
    kl: by task, (rows, 1 + S), that of the size first.
    """

    share: float
    shares: Sequence[float]
    kl: Mapping[str, Values]

    @classmethod
    def of(cls, result: Result, label: str, other: str) -> Compared | None:
        """Return None if there is no such task."""
        theirs = [*result.of(other).values()]
        share, *shares = (result.methods[x]["share"] for x in (label, *theirs))
        tasks = result.scored(label, *theirs).values if theirs else {}
        kl = {
            name: np.stack([by[x][:, 1] for x in (label, *theirs)], axis=1)
            for name, by in tasks.items()
        }
        return cls(share, shares, kl) if kl else None

    @property
    def rows(self) -> int:
        """Number of rows of the task that has most."""
        return max(map(len, self.kl.values()))

    @functools.cached_property
    def _stacks(self) -> list[tuple[list[int], Values]]:
        """The tasks of each number of rows: their places among all, and (tasks, rows, 1 + S)."""
        by_rows: dict[int, list[int]] = {}
        every = [*self.kl.values()]
        for place, kl in enumerate(every):
            by_rows.setdefault(len(kl), []).append(place)
        return [(places, np.stack([every[x] for x in places])) for places in by_rows.values()]

    def means(self, drawn: Values | None = None) -> Values:
        """Return the mean KL of each task, (tasks, 1 + S). drawn: rows to take, as of picked."""
        found = np.empty((len(self.kl), 1 + len(self.shares)))
        for places, kl in self._stacks:
            found[places] = kl[:, picked(drawn, kl.shape[1])].mean(axis=1)
        return found

    def factor(self, means: Values) -> Factor:
        """Return the factor of a task, or of a mean over tasks, from its KL, (1 + S,).

        The other method's curve is log bytes over log KL through its sizes, linear between them;
        beyond its ends it stays at the bytes of the end.
        """
        wanted, *theirs = (max(x, LEAST) for x in means.tolist())
        size, side = size_at(frontier([*zip(self.shares, theirs, strict=True)]), wanted)
        return Factor(math.log(size / self.share), side)

    def factors(self, drawn: Values | None = None) -> list[Factor]:
        """Return the factor of each task."""
        return [self.factor(x) for x in self.means(drawn)]

    def of_each_task(self) -> str:
        """Return the geometric mean of the tasks' factors, with its 95 % interval or as a bound.

        The interval is of a bootstrap over tasks and over rows, rows of one number in all tasks
        together: in several languages they are translations of each other.
        """
        whole, rng = self.factors(), np.random.default_rng(0)
        means, drawn = [], list[Factor]()
        for _ in range(_ROW_SAMPLES):
            sampled = self.factors(rng.random(self.rows))
            drawn += sampled
            logs = [x.log for x in sampled]
            means += [float(np.mean(rng.choice(logs, len(logs)))) for _ in range(_TASK_SAMPLES)]
        return cell(whole, means, drawn)

    def of_mean(self) -> str:
        """Return the factor at an equal mean KL of all tasks, with the same interval or bound."""
        whole, rng, drawn = self.factor(self.means().mean(axis=0)), np.random.default_rng(0), []
        for _ in range(_ROW_SAMPLES * _TASK_SAMPLES // 4):
            chosen = rng.integers(0, len(self.kl), len(self.kl))
            means = self.means(rng.random(self.rows))[chosen].mean(axis=0)
            drawn.append(self.factor(means))
        return cell([whole], [x.log for x in drawn], drawn)


def says_nothing(whole: Sequence[Factor]) -> bool:
    """Return whether the mean of some factors is bounded on both sides, or from below under 1."""
    sides = [x.side for x in whole]
    return -1 in sides and (1 in sides or sum(x.log for x in whole) < 0)


def cell(whole: Sequence[Factor], logs: Sequence[float], drawn: Sequence[Factor]) -> str:
    """Return the geometric mean of some factors, with an interval unless one is a bound.

    logs: drawn logs of the mean. drawn: drawn factors; an end of the interval is that of the
    rival's sizes if more than 2.5 % of them lie beyond that end of its curve.
    """
    if says_nothing(whole):
        return "-"
    sides = [x.side for x in whole]
    mean = geometric_mean(whole)
    if any(sides):
        return f"{'at most' if 1 in sides else 'at least'} {mean:.2f}"
    low, high = np.exp(np.quantile(logs, [0.025, 0.975]))
    below, above = (sum(x.side == y for x in drawn) > 0.025 * len(drawn) for y in (1, -1))
    return f"{mean:.2f} [{'<' if below else ''}{low:.2f}, {'>' if above else ''}{high:.2f}]"
