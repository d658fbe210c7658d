"""The pictures of the scores and the studies, from the result files alone."""

from __future__ import annotations

import math

import numpy as np

from benchmarks import pages
from benchmarks.quality.sets import SETS
from benchmarks.reports.axes import size_axis
from benchmarks.reports.scores import grown, headline

__all__ = ["draw_curves", "draw_growth"]

PAPER = (52.0, 0.2, 1.8)
"""What the paper reports: percent of the storage, and the range of its losses in percent."""


def draw_curves() -> None:
    """Drop of the score against size, mean and worst, with the paper's point."""
    import matplotlib.pyplot as plt

    sets = {x: entry for x, entry in headline()["sets"].items() if x in SETS}
    down, across = math.ceil(len(sets) / 2), min(len(sets), 2)
    figure, axes = plt.subplots(down, across, figsize=(5.4 * across, 4 * down), squeeze=False)
    for axis in axes.ravel()[len(sets) :]:
        axis.set_axis_off()
    for axis, (name, entry) in zip(axes.ravel(), sets.items(), strict=False):
        rows = [row for row in entry["rows"] if row["method"] == "hydraopt"]
        size = [row["size_pct"] for row in rows]
        low, high = (np.array([row["mean_drop_interval"][i] for row in rows]) for i in (0, 1))
        axis.fill_between(size, low, high, alpha=0.25, color="C0", linewidth=0)
        axis.plot(
            size, [row["mean_drop_pct"] for row in rows], "o-", label="mean, 95 %", color="C0"
        )
        axis.plot(size, [row["worst_drop_pct"] for row in rows], "s--", label="worst", color="C3")
        axis.vlines(PAPER[0], PAPER[1], PAPER[2], color="black", linewidth=5, label="paper's range")
        axis.axhline(0, color="grey", linewidth=0.8)
        size_axis(axis, (1, 2, 3, 5, 10, 20, 52))
        axis.set_yscale("symlog", linthresh=1)
        marks = [-5, -2, -1, 0, 1, 2, 5, 10, 20, 50]
        axis.set_yticks(marks, [str(mark) for mark in marks])
        axis.set_ylim(-6, 130)
        axis.set_xlabel("bytes of the bundle, % of the adapters in fp16")
        axis.set_ylabel("drop, % of the original's score")
        axis.set_title(f"{name} ({entry['n']} tasks)")
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(pages.PICTURES / "evidence.png", dpi=110)


def draw_growth() -> None:
    """Bytes per adapter against T."""
    import matplotlib.pyplot as plt

    result = grown()
    if result is None:
        return
    figure, axes = plt.subplots(1, len(result["levels"]), figsize=(11, 4))
    for axis, (measure, level) in zip(np.atleast_1d(axes), result["levels"].items(), strict=True):
        for group in dict.fromkeys(row["group"] for row in result["table"]):
            mine = [r for r in result["table"] if r["group"] == group and r[measure]]
            axis.plot(
                [r["adapters"] for r in mine],
                [r[measure] / 1000 for r in mine],
                "o--" if group.startswith("like") else "o-",
                label=group,
            )
        axis.set_xscale("log", base=2)
        counts = sorted({row["adapters"] for row in result["table"]})
        axis.set_xticks(counts, [str(c) for c in counts])
        axis.set_ylim(0, None)
        axis.set_xlabel("adapters in the bundle")
        axis.set_ylabel("kB per adapter")
        axis.set_title(f"at a {measure} error of {level:.2f}")
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(pages.PICTURES / "growth.png", dpi=110)
