"""Studies beside the scores: measures of harm, constants of the measure, growth with adapters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.reports import pictures
from benchmarks.reports.scores import grown, result_files
from benchmarks.reports.tables import MISSING, table

__all__ = ["SECTIONS", "TABLES", "correlations", "draw", "weights"]


def correlations(rows: Sequence[Mapping[str, Any]], target: str) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation of every candidate with the target.

    together: over all tasks. within: mean over tasks of the correlation inside each.
    """
    from scipy.stats import spearmanr

    from benchmarks.quality.damage_measures import CANDIDATES

    found = {}
    for name in CANDIDATES:
        x, y = (np.array([row[key] for row in rows]) for key in (name, target))
        inside = []
        for task in sorted({row["task"] for row in rows}):
            mine = np.array([row["task"] == task for row in rows])
            inside.append(spearmanr(x[mine], y[mine]).statistic)
        found[name] = {
            "together": round(float(spearmanr(x, y).statistic), 4),
            "within": round(float(np.mean(inside)), 4),
        }
    return found


_SHOWN = (
    "frobenius",
    "lost effect",
    "bias-aware",
    "absolute bias-aware",
    "gradient (self)",
    "gradient (prompts)",
)
"""Candidates in the table of the page; measures.csv has all."""


_WHICH = ("within", "together")


def _measured() -> dict[str, dict[tuple[str, str], dict[str, dict[str, float]]]]:
    """Return the correlations by set and by (half of the tasks, target)."""
    found = {}
    for path in sorted(QUALITY.glob("*.measures.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        found[path.name.partition(".")[0]] = {
            (half, target): correlations([row for row in rows if row["half"] == half], target)
            for half in ("chosen on", "held out")
            for target in ("lost_recovery", "kl")
        }
    return found


def measures() -> str:
    """Return the correlations with KL on the half of the tasks that was held out."""
    found = _measured()
    if not found:
        return MISSING
    held = [halves["held out", "kl"] for halves in found.values()]
    lines = [
        [name, *(f"{x[name][which]:.2f}" for x in held for which in _WHICH)] for name in _SHOWN
    ]
    heads = [f"`{name}`, {which}" for name in found for which in ("within tasks", "all tasks")]
    return table(["measure", *heads], lines)


def every_measure() -> Table:
    """Return the correlations of all candidates with both targets."""
    rows = [
        [name, candidate, half, target, *(f"{held[candidate][x]:.4f}" for x in _WHICH)]
        for name, halves in _measured().items()
        for (half, target), held in halves.items()
        for candidate in held
    ]
    return ["set", "candidate", "tasks", "target", *_WHICH], rows


def weights(folder: Path = QUALITY) -> Table:
    """Return the trials of the measure's constants on validation rows."""
    order = ("weights", "nearby", "nearest")
    found = sorted(
        (
            (order.index(r["plan"]), name, r)
            for name, r in result_files(folder, "validation")
            if r["plan"] in order
        ),
        key=lambda x: x[:2],
    )
    rows = []
    for _, name, result in found:
        scores = [task["results"] for task in result["tasks"]]
        for label, method in result["methods"].items():
            mine = [score[label] for score in scores]
            kl = [score["kl"] for score in mine]
            missed = [score["original"]["exact"] - score[label]["exact"] for score in scores]
            errors = [method["errors"][task["adapter"]] for task in result["tasks"]]
            rows.append(
                [
                    method["method"],
                    method["setting"],
                    f"{np.mean(kl):.4f}",
                    f"{np.exp(np.mean(np.log(np.maximum(kl, 1e-6)))):.4f}",
                    f"{100 * (1 - np.mean([score['recovery'] for score in mine])):.2f}",
                    f"{np.mean(missed):.2f}",
                    f"{np.mean(errors):.3f}",
                    len(scores),
                    result["limits"]["rows"],
                    name,
                ]
            )
    heads = ["weights", "size", "kl", "kl_geometric_mean", "lost_recovery_pct"]
    more = ["exact_lost_points", "error", "tasks", "rows_per_task", "result"]
    return [*heads, *more], rows


def growth() -> str:
    """Return the picture of bytes per adapter; growth.csv has the numbers."""
    return "![Bytes per adapter](picture:growth.png)\n" if grown() else MISSING


def bytes_per_adapter() -> Table:
    """Return the bytes per adapter at one error, by measure, group and number of adapters."""
    result = grown() or {"levels": {}, "table": ()}
    rows = [
        [measure, f"{level:.3f}", row["group"], row["adapters"], row[measure]]
        for measure, level in result["levels"].items()
        for row in result["table"]
        if row.get(measure)
    ]
    return ["measure", "error", "group", "adapters", "bytes_per_adapter"], rows


SECTIONS = {"measures": measures, "growth": growth}
TABLES = {"measures.csv": every_measure, "weights.csv": weights, "growth.csv": bytes_per_adapter}


def draw() -> None:
    """Draw bytes against the number of adapters."""
    pictures.draw_growth()
