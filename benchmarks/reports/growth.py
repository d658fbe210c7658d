"""Bytes of a bundle over those of its adapters alone, by number of adapters."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from benchmarks import pages
from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.reports.tables import MISSING

__all__ = ["SECTIONS", "TABLES", "draw"]


def grown() -> Any:
    """Return the result of growth.py; None if it is not complete."""
    file = QUALITY / "growth.json"
    result = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return result if "table" in result else None


def growth() -> str:
    """Return the picture; growth.csv has the numbers."""
    return (
        "![Bytes as a share of those of the same adapters alone](picture:growth.png)\n"
        if grown()
        else MISSING
    )


def bytes_per_adapter() -> Table:
    """Return bytes over those of the adapters alone, by measure, group and number of adapters."""
    result = grown() or {"levels": {}, "table": ()}
    rows = [
        [measure, f"{level:.3f}", row["group"], row["adapters"], row[measure]]
        for measure, level in result["levels"].items()
        for row in result["table"]
        if row.get(measure)
    ]
    return ["measure", "error", "group", "adapters", "of_alone"], rows


def draw() -> None:
    """Draw bytes, of those of the same adapters alone, against the number of adapters."""
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
                [100 * r[measure] for r in mine],
                "o--" if group.startswith("like") else "o-",
                label=group,
            )
        axis.set_xscale("log", base=2)
        counts = sorted({row["adapters"] for row in result["table"]})
        axis.set_xticks(counts, [str(c) for c in counts])
        axis.set_ylim(None, 105)
        axis.set_xlabel("adapters in the bundle")
        axis.set_ylabel("bytes, % of the same adapters alone")
        axis.set_title(f"at a {measure} error of {level:.2f}")
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(pages.PICTURES / "growth.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


SECTIONS = {"growth": growth}
TABLES = {"growth.csv": bytes_per_adapter}
