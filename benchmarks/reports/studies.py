"""Studies beside the scores: measures of harm, constants of the measure, growth with adapters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import QUALITY
from benchmarks.reports import pictures
from benchmarks.reports.scores import grown, result_files
from benchmarks.reports.tables import MISSING, table

__all__ = ["SECTIONS", "correlations", "draw"]


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


def measures() -> str:
    lines = []
    files = sorted(QUALITY.glob("*.measures.json"))
    for path in files:
        rows = json.loads(path.read_text())["rows"]
        halves = [
            correlations([row for row in rows if row["half"] == half], target)
            for half in ("chosen on", "held out")
            for target in ("lost_recovery", "kl")
        ]
        order = sorted(halves[0], key=lambda name: -halves[0][name]["within"])
        lines += [
            [path.name.partition(".")[0], name]
            + [f"{half[name]['within']:.3f} / {half[name]['together']:.3f}" for half in halves]
            for name in order
        ]
    if not lines:
        return MISSING
    head = ["set", "candidate", "lost recovery, chosen on", "KL, chosen on"]
    found = table([*head, "lost recovery, held out", "KL, held out"], lines)
    pictures = [
        f"![KL against the candidates](picture:{path.name.removesuffix('.json')}.png)\n"
        for path in files
    ]
    return "\n".join([found, *pictures])


def weights(folder: Path = QUALITY) -> str:
    """What the validation split said of the constants of the measure; other plans that were scored
    on it say nothing of them."""
    order = ("weights", "nearby", "nearest")
    found = sorted(
        (
            (order.index(r["plan"]), name, r)
            for name, r in result_files(folder, "validation")
            if r["plan"] in order
        ),
        key=lambda x: x[:2],
    )
    parts = []
    for _, name, result in found:
        rows = []
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
                    f"{100 * (1 - np.mean([score['recovery'] for score in mine])):.2f} %",
                    f"{np.mean(missed):.2f}",
                    f"{np.mean(errors):.3f}",
                ]
            )
        head = ["weights", "size", "KL", "its geometric mean", "lost recovery"]
        shown = table([*head, "exact matches lost, points", "error"], rows)
        rows_of = result["limits"]["rows"]
        of = "" if result["set"] == result["recipe"] else f", adapters of {result['set']}"
        parts.append(f"`{name}`{of}, {len(result['tasks'])} tasks, {rows_of} rows each:\n\n{shown}")
    return "\n".join(parts) or MISSING


def growth() -> str:
    result = grown()
    if result is None:
        return MISSING
    groups = list(dict.fromkeys(row["group"] for row in result["table"]))
    counts = sorted({row["adapters"] for row in result["table"]})
    parts = []
    for measure, level in result["levels"].items():
        rows = []
        for group in groups:
            mine = {r["adapters"]: r[measure] for r in result["table"] if r["group"] == group}
            rows.append([group, *(f"{mine[c]:,}" if mine.get(c) else "-" for c in counts)])
        title = f"bytes per adapter at a {measure} error of {level:.3f}"
        parts.append(table([title, *(f"T = {c}" for c in counts)], rows))
    return "\n".join([*parts, "![Bytes per adapter](picture:growth.png)\n"])


SECTIONS = {"measures": measures, "weights": weights, "growth": growth}


def draw() -> None:
    """KL against the candidates, and bytes against the number of adapters."""
    pictures.draw_measures()
    pictures.draw_growth()
