"""The table of rivals: what they do with the same adapters, what hydraopt needs for as much."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.quality.sets import METHOD, SETS
from benchmarks.reports.scores import drops, result_files, row_of
from benchmarks.reports.tables import CHANGED, MISSING, changed, recovered, table, titled

__all__ = [
    "SECTIONS",
    "Factor",
    "factors",
    "needed",
    "rivals",
    "rivals_in_short",
    "scored_rivals",
]

Row = Mapping[str, Any]
_LEAST = 1e-6
_NEAR = 0.05
"""KL up to which a row stands in README: beyond, a tenth of the score is lost."""
HEAD = [
    "method",
    "of fp16",
    "KL",
    "recovery",
    "mean drop of the score",
    CHANGED,
    "hydraopt needs",
    "factor",
]


def needed(ours: Sequence[Row], kl: float) -> tuple[str, float] | None:
    """("", percent of fp16) at which hydraopt's bundles have this KL to the originals, log-linear
    between the sizes that were scored; ("under ", the smallest) if that has less, None if the
    largest has more."""
    # Results are rounded to six digits, and the last of them is the least that is told apart.
    kl = max(kl, _LEAST)
    points = sorted((row["size_pct"], max(row["kl"], _LEAST)) for row in ours)
    if kl >= points[0][1]:
        return "under ", points[0][0]
    for (size, high), (more, low) in itertools.pairwise(points):
        if low <= kl < high:
            share = math.log(high / kl) / math.log(high / low)
            return "", math.exp(math.log(size) + share * math.log(more / size))
    return None


@dataclass(frozen=True, order=True)
class Factor:
    """How many times the bytes a rival takes that hydraopt needs for the same KL."""

    times: float
    rival: str
    size_pct: float


def factors(name: str, result: Mapping[str, Any]) -> list[Factor]:
    """Of every rival of a result whose KL lies between those of hydraopt's bundles; smallest first.

    A rival that is farther from the originals than the smallest of them has none: how small a
    bundle of that KL would be was not measured.
    """
    rows = [row_of(name, result, label) for label in result["methods"] if drops(result, label)]
    ours = [row for row in rows if row["method"] == METHOD]
    found = []
    for row in rows:
        need = needed(ours, row["kl"]) if row["method"] != METHOD and ours else None
        if need and not need[0]:
            found.append(Factor(row["size_pct"] / need[1], titled(row), row["size_pct"]))
    return sorted(found)


def scored_rivals(folder: Path = QUALITY) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file name, result) of every set whose rivals were scored."""
    for name, result in result_files(folder):
        if result["plan"] == "rivals" and result["tasks"]:
            yield name, result


def rivals(folder: Path = QUALITY, most_kl: float = math.inf, sets: Sequence[str] = ()) -> str:
    """For every set that was scored, its rows in order of their KL.

    most_kl: rows beyond it are left out. sets: these alone, unless empty.
    """
    parts = []
    for name, result in scored_rivals(folder):
        if sets and result["set"] not in sets:
            continue
        named = [label for label in result["methods"] if drops(result, label)]
        rows = [row_of(name, result, label) for label in named]
        ours = [row for row in rows if row["method"] == METHOD]
        near = [row for row in rows if row["kl"] <= most_kl]
        lines = [_line(row, ours) for row in sorted(near, key=lambda row: row["kl"])]
        count, each = len(result["tasks"]), result["limits"]["rows"]
        about = f"`{result['set']}`, {count} tasks, {each} rows each (`{name}`):"
        parts.append(f"{about}\n\n{table(HEAD, lines)}")
    return "\n".join(parts) or MISSING


def rivals_in_short(folder: Path = QUALITY) -> str:
    """The first set alone, and of it what still does most of what the originals do."""
    return rivals(folder, _NEAR, SETS[:1])


def _line(row: Row, ours: Sequence[Row]) -> list[str]:
    low, high = row["mean_drop_interval"]
    title = titled(row)
    mine = row["method"] == METHOD
    found = None if mine or not ours else needed(ours, row["kl"])
    return [
        f"**{title}**" if mine else title,
        f"{row['size_pct']:.1f} %",
        f"{row['kl']:.2g}",
        recovered(row),
        f"{row['mean_drop_pct']:+.1f} % [{low:+.1f}, {high:+.1f}]",
        changed(row),
        "-" if found is None else f"{found[0]}{found[1]:.1f} %",
        "-" if found is None else f"{'over ' if found[0] else ''}{row['size_pct'] / found[1]:.1f}",
    ]


SECTIONS = {"rivals": rivals, "rivals in short": rivals_in_short}
