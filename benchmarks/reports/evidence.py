"""Scores of the sets: drop against size, by task and by language, of every plan that was scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.sets import METHOD, SETS
from benchmarks.reports import pictures
from benchmarks.reports.scores import dropped, grouped, headline, result_files, scored_tasks
from benchmarks.reports.tables import CHANGED, MISSING, changed, recovered, table, wrapped
from benchmarks.reports.ways import PART_WAY

_SUMMARY = ("52%", "10%", "5%", "2%")
"""Sizes in README; docs/evidence/index.md has all."""

Result = Mapping[str, Any]
Row = Mapping[str, Any]


def results(plan: str) -> dict[str, Result]:
    """By set, those of a plan."""
    return {r["set"]: r for _, r in result_files() if r["plan"] == plan and r["tasks"]}


def _row(rows: Sequence[Row], method: str, size: float) -> Row | None:
    """The row nearest to a size; of several at it, that of what a merge does today."""

    def order(row: Row) -> tuple[float, bool]:
        return round(abs(row["size_pct"] - size), 1), f"-{PART_WAY}" not in row["results"][0]

    mine = (row for row in rows if row["method"] == method)
    return min((x for x in mine if abs(x["size_pct"] - size) < 0.1 * size), key=order, default=None)


def _scores(row: Row) -> list[str]:
    low, high = row["mean_drop_interval"]
    return [
        f"{row['size_pct']:.2f} %",
        "-" if row["guessed_error"] is None else f"{row['guessed_error']:.3f}",
        f"{row['relative_error']:.3f}",
        f"{row['kl']:.4f}",
        f"{row['top1_agreement_pct']:.2f} %",
        recovered(row),
        f"{row['mean_drop_pct']:.2f} [{low:.2f}, {high:.2f}]",
        f"{row['worst_drop_pct']:.2f} ({row['worst_task']})",
        changed(row),
    ]


HEAD = [
    "of fp16",
    "guessed error",
    "error",
    "KL",
    "same token",
    "recovery",
    "mean drop, % of the score",
    "worst task",
    CHANGED,
]


def _ours(entry: Mapping[str, Any]) -> list[Row]:
    """hydraopt's own rows of a set, over all its tasks; a part of them is easier or harder."""
    return [row for row in entry["rows"] if row["method"] == METHOD and row["tasks"] == entry["n"]]


def _main_sets() -> dict[str, Any]:
    """Without those of adapters that were trained at another time from the same recipe."""
    return {name: entry for name, entry in headline()["sets"].items() if name in SETS}


def curves() -> str:
    parts = []
    for name, entry in _main_sets().items():
        rows = [_scores(row) for row in _ours(entry)]
        parts.append(f"{name}, {entry['n']} tasks:\n\n{table(HEAD, rows)}")
    others = [f"`{name}`" for name in headline()["sets"] if name not in SETS]
    if others:
        parts.append(
            wrapped(
                "A set is one list of adapters, pinned by hash (`benchmarks/quality/pinned.json`). "
                f"Rows of others stand apart, beside their rivals: {', '.join(others)}."
            )
        )
    return "\n".join(parts)


def _has_own_table(row: Row) -> bool:
    return any(Path(x).stem.endswith((".rivals", ".map")) for x in row["results"])


_FEWER = """\
Rows of fewer tasks cannot be held against those of all: a part of them is easier or harder. In the
appendix, under "With prompts", the same tasks stand without prompts as well."""


def methods() -> str:
    """Rows of all methods of a set at 5 and 2 %, each with the number of its tasks."""
    parts = []
    for name, entry in headline()["sets"].items():
        rows = []
        mine = [row for row in entry["rows"] if not _has_own_table(row)]
        for size in (5, 2):
            for method in dict.fromkeys(row["method"] for row in mine):
                row = _row(mine, method, size)
                if row:
                    rows.append([method, f"{row['tasks']}", f"{row['test_rows']:,}", *_scores(row)])
        if len({row[0] for row in rows}) > 1:
            head = ["method", "tasks", "test rows", *HEAD]
            parts.append(f"{name}:\n\n{table(head, rows)}")
            if len({row[1] for row in rows}) > 1:
                parts.append(wrapped(_FEWER))
    return "\n".join(parts) or MISSING


def chance() -> str:
    """How many tasks lose more than their interval allows, at every size."""
    lines = []
    for name, result in results("sizes").items():
        for label, method in result["methods"].items():
            sure = []
            gains = changed = 0
            tasks = scored_tasks(result, label)
            for task in tasks:
                change = task["results"][label]["difference"][task["metric"]]
                changed += change["deviation"] > 0
                gains += change["low"] > 0
                if change["high"] < 0:
                    sure.append(task["adapter"])
            some = ", ".join(sure[:4]) + (" ..." if len(sure) > 4 else "")
            counts = [str(x) for x in (len(tasks), changed, len(sure), gains)]
            lines.append([name, f"{method['size_pct']:.1f} %", *counts, some])
    heads = ["set", "of fp16", "tasks", "with any change", "sure drops", "sure gains", "which drop"]
    return table(heads, lines)


def _labels(plan: Result, sizes: Sequence[str]) -> list[str]:
    return [label for label, m in plan["methods"].items() if m["setting"] in sizes]


def fairness() -> str:
    """Mean drop by task and by language, plain and with --fair; spread between best and worst."""
    parts = []
    plain, fair = results("sizes"), results("fair")
    for name in plain:
        found = [(plain[name], x) for x in _labels(plain[name], ("5%", "2%"))]
        found += (
            [(fair[name], x) for x in _labels(fair[name], ("5%", "2%"))] if name in fair else []
        )
        titles = [f"{r['methods'][x]['method']} {r['methods'][x]['setting']}" for r, x in found]
        for key in ("task", "language"):
            columns = [grouped(result, dropped(result, label), key) for result, label in found]
            rows = [[k, *(f"{column[k]:.2f}" for column in columns)] for k in columns[0]]
            spread = [f"{max(c.values()) - min(c.values()):.2f}" for c in columns]
            rows.append(["best to worst", *spread])
            parts.append(f"{name}, by {key}:\n\n{table([key, *titles], rows)}")
    return "\n".join(parts)


def tasks() -> str:
    """Every task's scores at a few sizes; those that were scored again with more rows, apart."""
    parts = []
    for name, result in results("sizes").items():
        labels = _labels(result, ("10%", "5%", "2%"))
        closer = [label for label in labels if label in result.get("closer", {})]
        first = [label for label in labels if label not in closer]
        for mine, about in ((closer, ", more test rows"), (first, "")):
            if mine:
                scored = scored_tasks(result, mine[0])
                parts.append(f"{name}{about}:\n\n{_task_table(result, mine, scored)}")
    return "\n".join(parts)


def _task_table(result: Result, labels: Sequence[str], scored: Sequence[Result]) -> str:
    rows = []
    for task in scored:
        metric, found = task["metric"], task["results"]
        row = [task["adapter"], metric, f"{task['rows']}"]
        base = found["base"]["scores"].get(metric)
        row.append("-" if base is None else f"{base:.1f}")
        row.append(f"{found['original']['scores'][metric]:.1f}")
        for label in labels:
            change = found[label]["difference"][metric]
            row.append(f"{change['difference']:+.1f} [{change['low']:+.1f}, {change['high']:+.1f}]")
        rows.append(row)
    sizes = [result["methods"][label]["setting"] for label in labels]
    return table(["task", "metric", "rows", "base", "original", *sizes], rows)


def summary() -> str:
    """README's table: every set at a few sizes."""
    lines = []
    for name, entry in _main_sets().items():
        for row in _ours(entry):
            if row["setting"] in _SUMMARY:
                low, high = row["mean_drop_interval"]
                lines.append(
                    [
                        f"`{name}`, {entry['n']}",
                        f"{row['bytes']:,}",
                        f"{row['size_pct']:.1f} %",
                        f"{row['mean_drop_pct']:+.2f} % [{low:+.2f}, {high:+.2f}]",
                        f"{row['worst_drop_pct']:+.1f} % ({row['worst_task']})",
                        changed(row),
                        f"{row['top1_agreement_pct']:.2f} %",
                        recovered(row),
                    ]
                )
    head = ["set, tasks", "bytes", "of fp16", "mean drop of the score", "worst task", CHANGED]
    return table([*head, "same next token", "recovery"], lines)


SECTIONS = {
    "curves": curves,
    "chance": chance,
    "tasks": tasks,
    "fairness": fairness,
    "methods": methods,
    "evidence": summary,
}


def draw() -> None:
    """Drop against size."""
    pictures.draw_curves()
