"""What a known start is worth: KL against size, and bytes at equal KL, with and without it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from benchmarks import pages
from benchmarks.common import QUALITY
from benchmarks.reports.axes import size_axis
from benchmarks.reports.factors import frontier, size_at
from benchmarks.reports.same_rows import LEAST
from benchmarks.reports.tables import MISSING, table, wrapped

__all__ = ["SECTIONS", "draw", "shared", "started"]

Merges = Mapping[str, Mapping[str, Any]]
"""By "WAY SIZE TASKS", what each task of the set takes and loses."""
_SAMPLES: Final = 2000
_TOGETHER: Final = 8
"""Number of tasks that are merged together."""
_LINES: Final = (
    ("private", 1, "each alone, no start"),
    ("unknown", _TOGETHER, "eight together, no start"),
    ("known", 1, "each alone, known start"),
    ("known", _TOGETHER, "eight together, known start"),
)


def _sets() -> Iterator[tuple[str, Merges]]:
    for file in sorted(QUALITY.glob("*.known-start.json")):
        yield file.name.partition(".")[0], json.loads(file.read_text())["merges"]


def _sizes(merges: Merges, way: str, tasks: int) -> dict[str, Mapping[str, Any]]:
    """Return the rows of a way and a number of tasks, by size."""
    found = (label.split(" ") for label in merges)
    return {
        size: merges[f"{way} {size} {n}"] for x, size, n in found if (x, n) == (way, f"{tasks}")
    }


def _mean(rows: Mapping[str, Any]) -> tuple[float, float]:
    """Return the mean share of fp16, in percent, and the geometric mean of KL over the tasks."""
    share = 100 * float(np.mean([x["share"] for x in rows.values()]))
    return share, math.exp(float(np.mean([math.log(max(x["kl"], LEAST)) for x in rows.values()])))


def _saved(merges: Merges, size: str, tasks: int, kl: Any) -> list[float]:
    """Return the log of each task's bytes with a known start, over those of a private task alone.

    The bytes are at the KL of the private one, on the curve of the tasks with a start.
    """
    private, curve = _sizes(merges, "private", 1), _sizes(merges, "known", tasks)
    ratios = []
    for task, row in private[size].items():
        points = [(x[task]["share"], max(kl(x[task]), LEAST)) for x in curve.values() if task in x]
        share, side = size_at(frontier(points), max(kl(row), LEAST)) if points else (0.0, 1)
        if not side:
            ratios.append(math.log(share / row["share"]))
    return ratios


def _interval(merges: Merges, size: str, tasks: int) -> tuple[float, float, float, int]:
    """Return the geometric mean of the ratios, its 95 % interval over tasks and rows, and tasks."""
    rng = np.random.default_rng(0)
    whole = _saved(merges, size, tasks, lambda row: row["kl"])
    means = []
    for _ in range(_SAMPLES // 10):
        picks: dict[int, Any] = {}

        def kl(row: Mapping[str, Any], picks: dict[int, Any] = picks) -> float:
            rows = np.array(row["rows"])
            pick = picks.setdefault(rows.size, rng.integers(0, rows.size, rows.size))
            return float(rows[pick].mean())

        ratios = _saved(merges, size, tasks, kl)
        for _ in range(10 if ratios else 0):
            means.append(float(np.mean(rng.choice(ratios, len(ratios)))))
    low, high = np.exp(np.quantile(means, [0.025, 0.975]))
    return math.exp(float(np.mean(whole))), float(low), float(high), len(whole)


def started() -> str:
    """Return the table of bytes at equal KL, and the picture."""
    sets = list(_sets())
    if not sets:
        return MISSING
    lines = []
    for name, merges in sets:
        for size in _sizes(merges, "private", 1):
            share, kl = _mean(_sizes(merges, "private", 1)[size])
            known = _sizes(merges, "known", 1).get(size)
            if known is None:
                continue
            saved = "-"
            if 2 * len(_saved(merges, size, 1, lambda row: row["kl"])) > len(known):
                ratio, low, high, count = _interval(merges, size, 1)
                saved = f"{ratio:.2f} [{low:.2f}, {high:.2f}] ({count})"
            lines.append(
                [
                    f"`{name}`",
                    size,
                    f"{share:.1f} %",
                    f"{kl:.2g}",
                    f"{_mean(known)[0]:.1f} %",
                    f"{_mean(known)[1]:.2g}",
                    saved,
                ]
            )
    head = [
        "set",
        "limit",
        "no start",
        "KL",
        "known start",
        "KL",
        "bytes at equal KL [95 %] (tasks)",
    ]
    text = wrapped(
        """Each adapter alone. Sizes are of whole files, means over the tasks; KL, in nats an
        answer, is the geometric mean. Bytes at equal KL: with a known start over those without,
        for tasks whose curve reaches the KL, if these are more than half; the interval is of a
        bootstrap over tasks and rows."""
    )
    return f"{table(head, lines)}\n{text}\n![KL against size](picture:started.png)\n"


def shared() -> str:
    """Return what sharing does to the KL of the tasks of one bundle, for each set with both."""
    lines = []
    for name, merges in _sets():
        private = _sizes(merges, "private", _TOGETHER)
        both = {x: y for x, y in _sizes(merges, "unknown", _TOGETHER).items() if x in private}
        for size, rows in both.items():
            share, kl = _mean(rows)
            other = _mean(private[size])[1]
            cells = [f"{share:.1f} %", f"{other:.2g}", f"{kl:.2g}", f"{kl / other:.2f}"]
            lines.append([f"`{name}`, {_TOGETHER}", *cells])
    head = ["set, tasks", "of fp16", "KL, private parts", "KL, shared parts", "factor"]
    return table(head, lines) if lines else MISSING


def draw() -> None:
    """Draw KL against size, with and without a known start, alone and together."""
    import matplotlib.pyplot as plt

    sets = list(_sets())
    if not sets:
        return
    figure, axes = plt.subplots(1, len(sets), figsize=(6.4 * len(sets), 4), squeeze=False)
    for axis, (name, merges) in zip(axes[0], sets, strict=True):
        for i, (way, tasks, label) in enumerate(_LINES):
            points = sorted(map(_mean, _sizes(merges, way, tasks).values()))
            if points:
                style = "o-" if way == "known" else "s--"
                axis.plot(*zip(*points, strict=True), style, color=f"C{i}", label=label)
        size_axis(axis, (2, 3, 5, 10, 20, 40))
        axis.set_yscale("log")
        axis.set_xlabel("bytes, % of the adapters in fp16")
        axis.set_ylabel("KL, nats an answer")
        axis.set_title(name)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(pages.PICTURES / "started.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


SECTIONS = {"started": started, "shared": shared}
