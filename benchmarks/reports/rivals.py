"""Compare rivals on the same adapters, and state the bytes that hydraopt needs for equal KL."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.quality.sets import METHOD
from benchmarks.reports.scores import drops, result_files, row_of
from benchmarks.reports.tables import CHANGED, changed, recovered, titled

__all__ = [
    "TABLES",
    "Factor",
    "every_rival",
    "factors",
    "needed",
    "scored_rivals",
]

Row = Mapping[str, Any]
_LEAST = 1e-6
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


def every_rival(folder: Path = QUALITY) -> Table:
    """Return the rows of every set in order of KL."""
    lines = [
        [result["set"], *_line(row, ours)] for result, rows, ours in _rows(folder) for row in rows
    ]
    return ["set", *HEAD], lines


def _rows(folder: Path) -> Iterator[tuple[Mapping[str, Any], list[Row], list[Row]]]:
    """Yield (result, its rows in order of KL, hydraopt's among them)."""
    for name, result in scored_rivals(folder):
        named = [label for label in result["methods"] if drops(result, label)]
        rows: list[Row] = [row_of(name, result, label) for label in named]
        rows.sort(key=lambda row: row["kl"])
        yield result, rows, [row for row in rows if row["method"] == METHOD]


def _line(row: Row, ours: Sequence[Row]) -> list[str]:
    low, high = row["mean_drop_interval"]
    mine = row["method"] == METHOD
    found = None if mine or not ours else needed(ours, row["kl"])
    return [
        titled(row),
        f"{row['size_pct']:.1f} %",
        f"{row['kl']:.2g}",
        recovered(row),
        f"{row['mean_drop_pct']:+.1f} % [{low:+.1f}, {high:+.1f}]",
        changed(row),
        "-" if found is None else f"{found[0]}{found[1]:.1f} %",
        "-" if found is None else f"{'over ' if found[0] else ''}{row['size_pct'] / found[1]:.1f}",
    ]


TABLES = {"rivals.csv": every_rival}
