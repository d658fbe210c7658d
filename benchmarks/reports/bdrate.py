"""Compute the BD-rate: the mean factor of bytes at equal KL.

Both methods' curves, log bytes over log KL, are interpolated by monotone cubics (PCHIP) and their
mean distance over the KL that both reach is taken, as Bjontegaard does for rate and distortion of
video (VCEG-M33, 2001; with PCHIP as in ITU-T HSTP-VID-WPOM, 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.quality.sets import METHOD, WITH_PROMPTS
from benchmarks.reports.scores import best_seen, drops, result_files, row_of, scored_tasks
from benchmarks.reports.tables import MISSING, table, wrapped

__all__ = [
    "SECTIONS",
    "TABLES",
    "Pairing",
    "Rate",
    "bd_rate",
    "frontier",
    "pairings",
    "prompts_told",
]

Point = tuple[float, float]
"""(bytes or a percentage of them, KL)."""
Row = Mapping[str, Any]
_OF_RIVALS = ("rivals", "map")
"""Plans whose methods are those of others."""
_LEAST = 1e-6
"""Results are rounded to six digits: less is not told apart."""


@dataclass(frozen=True)
class Rate:
    """percent: bytes of the one less those of the other, in percent of the other's, at equal KL;
    negative where the one takes fewer. low, high: the KL over which that is the mean; equal where a
    method has one size alone."""

    percent: float
    low: float
    high: float

    @property
    def times(self) -> float:
        """How many times the bytes the other takes."""
        return 1 / (1 + self.percent / 100)


def frontier(points: Sequence[Point]) -> list[Point]:
    """In order of bytes, the points with less KL than all smaller ones."""
    kept: list[Point] = []
    for size, kl in sorted((size, max(kl, _LEAST)) for size, kl in points):
        if not kept or kl < kept[-1][1]:
            kept.append((size, kl))
    return kept


def bd_rate(one: Sequence[Point], other: Sequence[Point]) -> Rate | None:
    """The rate of ``one`` against ``other``; None where no KL is reached by both.

    A point that is no smaller and no nearer than another of its method does not count. A method
    with one size alone is compared at the KL of that.
    """
    curves = [frontier(points) for points in (one, other)]
    if not all(curves):
        return None
    low = max(points[-1][1] for points in curves)
    high = min(points[0][1] for points in curves)
    if low > high:
        return None
    first, second = (_mean_log(points, math.log(low), math.log(high)) for points in curves)
    return Rate(100 * math.expm1(first - second), low, high)


def _mean_log(points: Sequence[Point], low: float, high: float) -> float:
    """Mean of log bytes over log KL between ``low`` and ``high``."""
    from scipy.interpolate import PchipInterpolator

    if len(points) == 1:
        return math.log(points[0][0])
    logs = [(math.log(kl), math.log(size)) for size, kl in reversed(points)]
    curve = PchipInterpolator(*zip(*logs, strict=True))
    if high == low:
        return float(curve(low))
    return float(curve.integrate(low, high)) / (high - low)


@dataclass(frozen=True)
class Pairing:
    """One row of the table: ``method`` against ``other``, which has so many ``sizes`` that count.
    prompts: what the method was told of, nothing for none.

    rate: None where no KL is reached by both.
    """

    method: str
    other: str
    sizes: int
    rate: Rate | None
    prompts: str = ""


def pairings(rows: Sequence[Row]) -> list[Pairing]:
    """Of rows that were scored alike: hydraopt's default against every rival, and its ways with
    prompts against the default, those of other prompts apart. A rate below zero speaks for the
    first of the two."""
    points: dict[tuple[str, str], list[Point]] = {}
    for row in rows:
        curve = row["method"], row.get("prompts", "")
        points.setdefault(curve, []).append((row["size_pct"], row["kl"]))
    plain = points.pop((METHOD, ""), [])
    made = []
    for (method, prompts), its in points.items():
        if method in WITH_PROMPTS:
            rate = bd_rate(its, plain)
            made.append(Pairing(method, METHOD, len(frontier(plain)), rate, prompts))
        else:
            made.append(Pairing(METHOD, method, len(frontier(its)), bd_rate(plain, its)))
    return made if plain else []


@dataclass(frozen=True)
class _Alike:
    """What rows share that are compared: test rows of a task, the adapters that were scored, the
    hashes of their rows, and how products are made."""

    set: str
    rows: int | None
    tasks: tuple[str, ...]
    files: tuple[str, ...]
    products: str


def prompts_told(note: Mapping[str, Any]) -> str:
    """The prompts that a merge was told of, as the table says them; nothing for none."""
    asked = note.get("options", {}).get("judge")
    if asked is None:
        return ""
    said = f"{asked.get('count', '?')} {asked.get('split', '?')} prompts a task"
    return f"{said}, {asked['learned']} training rows learned" if asked.get("learned") else said


def _scored_alike(folder: Path) -> dict[_Alike, list[dict[str, Any]]]:
    """Rows of rivals and of hydraopt's own by what they share; a bundle that two results have
    stands once."""
    groups: dict[_Alike, dict[str, list[dict[str, Any]]]] = {}
    for name, result in result_files(folder):
        plain = {**result, "closer": {}}  # scored on more rows, which are not the same
        mine = (METHOD, *WITH_PROMPTS)
        named = [
            label
            for label, note in result["methods"].items()
            if drops(plain, label) and (result["plan"] in _OF_RIVALS or note["method"] in mine)
        ]
        limits, products = result.get("limits", {}), result.get("products", "float32")
        for label in named:
            scored = sorted(scored_tasks(plain, label), key=lambda task: str(task["adapter"]))
            tasks = tuple(task["adapter"] for task in scored)
            files = tuple(task.get("sha256", "") for task in scored)
            key = _Alike(result["set"], limits.get("rows"), tasks, files, products)
            told = prompts_told(result["methods"][label])
            row = {**row_of(name, plain, label), "prompts": told}
            groups.setdefault(key, {}).setdefault(told, []).append(row)
    return {
        key: [row for rows in by_prompts.values() for row in best_seen(rows)]
        for key, by_prompts in groups.items()
    }


def _found(folder: Path) -> list[tuple[_Alike, list[Pairing]]]:
    """Return the comparisons of rows that were scored alike."""
    return [(alike, pairings(rows)) for alike, rows in _scored_alike(folder).items()]


def rates(folder: Path = QUALITY) -> str:
    """Return the factor of the bytes of each rival in each set; "-" without a KL in common."""
    factors: dict[str, dict[str, str]] = {}
    sets = []
    for alike, made in _found(folder):
        theirs = [pair for pair in made if pair.method == METHOD]
        if theirs:
            sets.append(alike.set)
        for pair in theirs:
            times = f"{pair.rate.times:.1f}" if pair.rate else "-"
            factors.setdefault(pair.other, {})[alike.set] = times
    if not sets:
        return MISSING
    known = {name: x for name, x in factors.items() if set(x.values()) != {"-"}}
    lines = [[name, *(x.get(one, "") for one in sets)] for name, x in known.items()]
    apart = ", ".join(sorted(set(factors) - set(known)))
    about = f"No KL in common with hydraopt in any set: {apart}." if apart else ""
    return table(["rival", *(f"`{x}`" for x in sets)], lines) + (
        f"\n{wrapped(about)}" if about else ""
    )


def every_rate(folder: Path = QUALITY) -> Table:
    """Return all comparisons, those of hydraopt with and without prompts among them."""
    lines: list[list[object]] = []
    for alike, made in _found(folder):
        each = "all" if alike.rows is None else alike.rows
        for pair in made:
            about = [alike.set, len(alike.tasks), each, pair.method, pair.prompts, pair.other]
            rate = pair.rate
            ends = ["", "", "", ""]
            if rate:
                ends = [f"{rate.low:.2g}", f"{rate.high:.2g}", f"{rate.percent:+.0f}"]
                ends.append(f"{rate.times:.1f}")
            lines.append([*about, pair.sizes, *ends])
    heads = [
        "set",
        "tasks",
        "rows",
        "method",
        "prompts",
        "against",
        "its sizes",
        "kl_low",
        "kl_high",
    ]
    return [*heads, "bd_rate_pct", "its bytes / the method's"], lines


SECTIONS = {"bd-rate": rates}
TABLES = {"bd-rate.csv": every_rate}
