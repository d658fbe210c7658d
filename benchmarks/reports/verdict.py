"""Compare hydraopt with every rival that takes at least as many bytes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.quality.sets import METHOD
from benchmarks.reports.rivals import scored_rivals
from benchmarks.reports.scores import SURE, drops, mean_drop, scored_tasks
from benchmarks.reports.tables import MISSING, table, titled

__all__ = ["SECTIONS", "TABLES", "Duel", "duels", "verdicts"]

Result = Mapping[str, Any]
_LARGEST = 60.0
"""Percent of the fp16 bytes up to which rows are compared."""


@dataclass(frozen=True)
class Duel:
    """A rival's row and the largest of hydraopt's bundles that is no larger, on the same rows.

    mean, worst: by how many percent of the originals' scores more the rival loses, in the mean and
    on each one's own worst task. mean_spread, worst_spread: their standard deviations, as if the
    two had been scored on rows drawn apart, which makes them too wide. kl: by how many nats a token
    the rival is farther from the originals, mean over tasks.
    """

    rival: str
    size_pct: float
    ours: str
    mean: float
    mean_spread: float
    worst: float
    worst_spread: float
    kl: float

    @property
    def gaps(self) -> dict[str, tuple[float, float]]:
        """By score: what the rival loses more, and its standard deviation."""
        return {
            "mean": (self.mean, self.mean_spread),
            "worst task": (self.worst, self.worst_spread),
        }


def duels(result: Result) -> Iterator[Duel]:
    """All rows of a result, but for those that are smaller than every bundle of hydraopt's."""
    methods = result["methods"]
    scored = {label: lost for label in methods if (lost := drops(result, label))}
    mine = [label for label in scored if methods[label]["method"] == METHOD]
    for label, lost in scored.items():
        note = methods[label]
        smaller = [x for x in mine if methods[x]["bytes"] <= note["bytes"]]
        if label in mine or not smaller or note["size_pct"] > _LARGEST:
            continue
        ours = max(smaller, key=lambda x: methods[x]["bytes"])
        mean, spread = mean_drop(lost)
        our_mean, our_spread = mean_drop(scored[ours])
        worst, worst_spread = max(lost.values())
        our_worst, our_worst_spread = max(scored[ours].values())
        yield Duel(
            titled(note),
            note["size_pct"],
            methods[ours]["setting"],
            mean - our_mean,
            math.hypot(spread, our_spread),
            worst - our_worst,
            math.hypot(worst_spread, our_worst_spread),
            _kl(result, label) - _kl(result, ours),
        )


def _kl(result: Result, label: str) -> float:
    found = [task["results"][label]["kl"] for task in scored_tasks(result, label)]
    return float(sum(found) / len(found))


def _counts(pairs: Sequence[tuple[float, float]]) -> list[str]:
    """How many are ahead for sure, ahead or equal, behind, behind for sure."""
    sure = sum(x > SURE * s and x > 0 for x, s in pairs)
    lost = sum(-x > SURE * s and x < 0 for x, s in pairs)
    behind = sum(x < 0 for x, _ in pairs) - lost
    return [str(n) for n in (sure, len(pairs) - sure - lost - behind, behind, lost)]


def verdicts(folder: Path = QUALITY) -> str:
    """Return the counts for every set whose rivals were scored, and the smallest sure lead."""
    lines = []
    for _, result in scored_rivals(folder):
        found, name = list(duels(result)), f"`{result['set']}`"
        for what in ("mean", "worst task"):
            half = SURE * statistics.median(duel.gaps[what][1] for duel in found)
            counts = _counts([duel.gaps[what] for duel in found])
            lines.append([name, what, str(len(found)), *counts, f"{half:.1f}"])
        nearer = sum(duel.kl >= 0 for duel in found)
        counts = ["-", str(nearer), str(len(found) - nearer), "-", "-"]
        lines.append([name, "KL", str(len(found)), *counts])
    head = ["set", "score", "rivals", "ahead for sure", "ahead or equal", "behind", "for sure"]
    return table([*head, "a sure lead, % of the score"], lines) if lines else MISSING


def every_duel(folder: Path = QUALITY) -> Table:
    """Return every comparison; a positive gap is a rival that loses more than hydraopt."""
    lines = [
        [
            result["set"],
            duel.rival,
            f"{duel.size_pct:.2f}",
            duel.ours,
            *(f"{x:.2f}" for gap in duel.gaps.values() for x in gap),
            f"{duel.kl:.3g}",
        ]
        for _, result in scored_rivals(folder)
        for duel in duels(result)
    ]
    heads = ["set", "rival", "size_pct", "hydraopt at", "mean gap, %", "its deviation"]
    return [*heads, "worst task's gap, %", "its deviation", "kl gap"], lines


SECTIONS = {"verdict": verdicts}
TABLES = {"verdict.csv": every_duel}
