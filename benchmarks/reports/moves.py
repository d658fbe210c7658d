"""Choices that move, over several adapters that are asked the same items, with intervals.

Items are drawn, not answers: what several adapters say of one item is no news of other items.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.probes.chance import wilson

__all__ = ["ALL", "Moves", "moved", "pronouns", "ratio_interval", "share_text"]

ALL: Final = "all"
_DRAWS: Final = 2000
_VALUE: Final = {"s": 1, "a": -1}
_FEMALE, _MALE = "f", "m"

Counts = NDArray[np.float64]
Entry = Mapping[str, Any]


def ratio_interval(part: Counts, whole: Counts, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of sum(part) / sum(whole), in percent: items drawn with replacement.

    part, whole: (items,). Where no item has any, or each has all, no draw differs: Wilson's
    interval of so many items says more.
    """
    items = len(part)
    if not part.any() or np.array_equal(part, whole):
        low, high = wilson(items if part.any() else 0, items)
        return 100 * low, 100 * high
    drawn = np.random.default_rng(seed).integers(0, items, (_DRAWS, items))
    sums, totals = part[drawn].sum(1), whole[drawn].sum(1)
    low, high = np.quantile(100 * sums[totals > 0] / totals[totals > 0], [0.025, 0.975])
    return float(low), float(high)


def share_text(part: Counts, whole: Counts, told: bool = True) -> str:
    """Percent with the interval; without it where items are not told apart."""
    text = f"{100 * part.sum() / whole.sum():.1f}"
    return f"{text} [{{:.1f}}, {{:.1f}}]".format(*ratio_interval(part, whole)) if told else text


@dataclass(frozen=True)
class Moves:
    """By item, over adapters, (items,) each: flips, how many of them one way and the other, and
    answers asked. told: whether items are told apart; else each array is one sum."""

    flips: Counts
    towards: Counts
    away: Counts
    asked: Counts
    told: bool

    def share(self) -> str:
        """Flips in percent, with the interval."""
        return share_text(self.flips, self.asked, self.told)

    def cell(self) -> str:
        """The same, with the numbers of both ways."""
        return f"{self.share()} ({self.towards.sum():.0f}, {self.away.sum():.0f})"

    def net(self) -> tuple[float, float, float] | None:
        """(towards less away in percent of the answers, low, high); None where items are not told
        apart."""
        if not self.told:
            return None
        net = self.towards - self.away
        value = 100 * float(net.sum() / self.asked.sum())
        if not net.any():
            return 0.0, 0.0, 0.0
        return (value, *ratio_interval(net, self.asked))


def moved(
    entries: Iterable[Entry], label: str, probe: str | None = None, group: str = ALL
) -> Moves:
    """What the adapters' choices do under a label, towards a stereotype and away from one.

    probe: None for all of them. Raises ValueError where nothing of it was asked.
    """
    pairs = [
        (name, by_set["original"][group], by_set[label][group])
        for entry in entries
        for name, by_set in entry["probes"].items()
        if probe in (None, name) and group in by_set[label]
    ]
    told = all("choices" in said for _, *both in pairs for said in both)
    return _summed([(name, _of_choices(*both, told)) for name, *both in pairs], told)


def pronouns(entries: Iterable[Entry], label: str) -> Moves | None:
    """The same of flips to a woman's pronoun (towards) and to a man's (away), of the probes that
    are about the two; None if there are none."""
    held = [
        (name, said["items"], said["change"])
        for entry in entries
        for name, by_set in entry["probes"].items()
        if "people" in (said := by_set[label][ALL])["change"]
    ]
    told = all("items" in change["people"] for _, _, change in held)
    rows = [(name, _of_pronouns(items, change["people"], told)) for name, items, change in held]
    return _summed(rows, told) if rows else None


def _summed(rows: list[tuple[str, Counts]], told: bool) -> Moves:
    """rows: (the probe, (4, items) of one adapter). Items of one probe are the same for all."""
    sums: dict[str, Counts] = {}
    for name, counts in rows:
        sums[name] = sums[name] + counts if name in sums else counts
    whole = np.concatenate(list(sums.values()), axis=1)
    return Moves(*(whole if told else whole.sum(1, keepdims=True)), told)


def _of_choices(before: Entry, now: Entry, told: bool) -> Counts:
    if not told:
        change = now["change"]
        values = [change["flips"], change["towards"], change["away"], now["items"]]
        return np.array(values, float)[:, None]
    old, new = (np.array(list(x["choices"])) for x in (before, now))
    value = [np.array([_VALUE.get(x, 0) for x in held]) for held in (old, new)]
    step = value[1] - value[0]
    return np.array([old != new, step > 0, step < 0, np.ones(len(old))], float)


def _of_pronouns(items: int, people: Entry, told: bool) -> Counts:
    if not told:
        female, male = people["to"]["female"], people["to"]["male"]
        return np.array([female + male, female, male, items], float)[:, None]
    letters = np.array(list(people["items"]))
    whose = [letters == x for x in (_FEMALE, _MALE)]
    return np.array([whose[0] | whose[1], *whose, np.ones(len(letters))], float)
