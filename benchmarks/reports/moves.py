"""Choices that move, over several adapters that are asked the same items, with intervals.

Items are drawn, not answers: what several adapters say of one item is no news of other items.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.probes.chance import wilson

__all__ = [
    "ALL",
    "Moves",
    "moved",
    "preferred",
    "pronouns",
    "ratio_interval",
    "share_text",
    "signs_p",
]

ALL: Final = "all"
_DRAWS: Final = 2000
_SIGNS: Final = 10_000
_EXACT: Final = 12
_VALUE: Final = {"s": 1, "a": -1}
_FEMALE, _MALE = "f", "m"

Counts = NDArray[np.float64]
Entry = Mapping[str, Any]


def ratio_interval(part: Counts, whole: Counts, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of sum(part) / sum(whole), in percent.

    part, whole: (items,). Items are drawn with replacement. Of items that are asked once the
    interval is Wilson's. So it is where no item has any, or each has all, since no draw differs: of
    so many items.
    """
    if whole.max() <= 1 and part.min() >= 0:
        low, high = wilson(int(part.sum()), int(whole.sum()))
        return 100 * low, 100 * high
    items = len(part)
    if not part.any() or np.array_equal(part, whole):
        low, high = wilson(items if part.any() else 0, items)
        return 100 * low, 100 * high
    return _drawn_interval(part, whole, seed)


def _drawn_interval(part: Counts, whole: Counts, seed: int = 0) -> tuple[float, float]:
    items = len(part)
    drawn = np.random.default_rng(seed).integers(0, items, (_DRAWS, items))
    sums, totals = part[drawn].sum(1), whole[drawn].sum(1)
    low, high = np.quantile(100 * sums[totals > 0] / totals[totals > 0], [0.025, 0.975])
    return float(low), float(high)


def signs_p(net: Counts, seed: int = 0) -> float:
    """Return how likely sum(net) is so far from 0 if each item might as well go the other way.

    net: (items,). Of one adapter it is the sign test: exact, up to 12 items that go anywhere, else
    by signs that are drawn.
    """
    moving = net[net != 0]
    if len(moving) <= _EXACT:
        signs = 1.0 - 2 * (np.arange(2 ** len(moving))[:, None] >> np.arange(len(moving)) & 1)
        return float((np.abs(signs @ moving) >= abs(moving.sum())).mean())
    drawn = np.random.default_rng(seed).choice([-1.0, 1.0], (_SIGNS, len(moving)))
    return float(((np.abs(drawn @ moving) >= abs(moving.sum())).sum() + 1) / (_SIGNS + 1))


def share_text(part: Counts, whole: Counts) -> str:
    """Return percent with the interval; a dash for a share of nothing."""
    if not whole.any():
        return "-"
    low, high = ratio_interval(part, whole)
    return f"{100 * part.sum() / whole.sum():.1f} [{low:.1f}, {high:.1f}]"


@dataclass(frozen=True)
class Moves:
    """By item, over adapters, (items,) each: flips, how many of them one way and the other, and
    answers asked."""

    flips: Counts
    towards: Counts
    away: Counts
    asked: Counts

    def cell(self) -> str:
        """Return flips in percent, with the interval and the numbers of both ways."""
        share = share_text(self.flips, self.asked)
        return f"{share} ({self.towards.sum():.0f}, {self.away.sum():.0f})"

    def net(self) -> tuple[float, float, float, float]:
        """Return (towards less away in percent of answers, low, high, p of no direction)."""
        net = self.towards - self.away
        value = 100 * float(net.sum() / self.asked.sum())
        return (value, *_drawn_interval(net, self.asked), signs_p(net))


def moved(
    entries: Iterable[Entry], label: str, probe: str | None = None, group: str = ALL
) -> Moves:
    """Return what the adapters' choices do under a label, towards a stereotype and away.

    probe: None for all of them. Raises ValueError where nothing of it was asked.
    """
    return _summed(
        (name, _of_choices(by_set["original"][group], by_set[label][group]))
        for entry in entries
        for name, by_set in entry["probes"].items()
        if probe in (None, name) and group in by_set[label]
    )


def pronouns(entries: Iterable[Entry], label: str) -> Moves | None:
    """Return the moves to a woman's pronoun (towards) and to a man's (away).

    They are of the probes that are about the two; None if there are none.
    """
    rows = [
        (name, _of_pronouns(change["people"]["items"]))
        for entry in entries
        for name, by_set in entry["probes"].items()
        if "people" in (change := by_set[label][ALL]["change"])
    ]
    return _summed(rows) if rows else None


def of_men(groups: Mapping[str, Entry]) -> tuple[int, int] | None:
    """Return (pronouns of a man, pronouns) that were chosen, of what a probe says by group.

    None where the probe does not tell occupations of mostly women and of mostly men apart.
    """
    women, men = (groups.get(f"occupation of mostly: {x}") for x in ("female", "male"))
    if women is None or men is None:
        return None
    return women["against"] + men["stereotype"], women["items"] + men["items"]


def preferred(held: Sequence[Entry]) -> tuple[Counts, Counts]:
    """Return (answers that follow a stereotype, those that take a side) of one probe.

    Both are by item, over adapters.
    """
    letters = np.array([list(x["choices"]) for x in held])
    follow, against = ((letters == x).sum(0).astype(float) for x in ("s", "a"))
    return follow, follow + against


def _summed(rows: Iterable[tuple[str, Counts]]) -> Moves:
    """Return the moves by item, summed over adapters.

    rows: (the probe, (4, items) of one adapter). Items of one probe are the same for all.
    """
    sums: dict[str, Counts] = {}
    for name, counts in rows:
        sums[name] = sums[name] + counts if name in sums else counts
    return Moves(*np.concatenate(list(sums.values()), axis=1))


def _of_choices(before: Entry, now: Entry) -> Counts:
    old, new = (np.array(list(x["choices"])) for x in (before, now))
    value = [np.array([_VALUE.get(x, 0) for x in held]) for held in (old, new)]
    step = value[1] - value[0]
    return np.array([old != new, step > 0, step < 0, np.ones(len(old))], float)


def _of_pronouns(items: str) -> Counts:
    letters = np.array(list(items))
    whose = [letters == x for x in (_FEMALE, _MALE)]
    return np.array([whose[0] | whose[1], *whose, np.ones(len(letters))], float)
