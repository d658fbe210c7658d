"""Time and memory of merging and reading against adapters, rank and width."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.common import SPEED
from benchmarks.pages import Table
from benchmarks.reports.tables import table
from benchmarks.speed.exponents import PLACE, cell_of

__all__ = ["SECTIONS", "TABLES", "block", "cells", "draw", "draw_cells"]

Row = Mapping[str, Any]
_PICTURE = "scaling.png"


def _said(row: Row, key: str) -> str:
    if f"{key}_wall" in row:
        return f"{row[f'{key}_wall']:.2f}"
    if key == "merge" and "over" in row:
        return f"over {row['over']}"
    return "failed" if "failed" in row else "-"


def block(result: Mapping[str, Any]) -> str:
    """Return the picture and the exponents; scaling.csv has every cell."""
    rows = result["rows"]
    exponents: dict[tuple[str, str], dict[str, str]] = {}
    for line in result["exponents"]:
        if line["operation"] == "merge":
            key = line["tool"], "8B layers" if line["at"]["shape"] == "8b" else "square"
            exponents.setdefault(key, {})[line["axis"]] = f"{line['exponent']:.2f}"
    axes = ("tasks", "rank", "width")
    lines = [
        [*key, *(found.get(axis, "") for axis in axes)] for key, found in sorted(exponents.items())
    ]
    failed = sorted({f"{row['tool']}: {row['failed']}" for row in rows if "failed" in row})
    parts = [
        f"{result['hardware']['cpu']}, {result['hardware']['cores']} cores; at most "
        f"{result['limit']} s a run, medians of {result['repeats']}; load when a cell began: at "
        f"most {max(row['load_1min'] for row in rows)}.\n",
        f"![Seconds and memory against adapters, rank and width](picture:{_PICTURE})\n",
        "Exponents of the merge: its seconds grow as this power of the number of tasks, the rank "
        "or the width.\n",
        table(["tool", "modules", *axes], lines),
    ]
    if failed:
        parts.append(f"Failed: {'; '.join(failed)}.\n")
    return "\n".join(parts)


def cells(result: Mapping[str, Any]) -> Table:
    """Return one row for each tool and cell of the grid."""
    lines: list[list[object]] = []
    for row in sorted(result["rows"], key=lambda row: (row["shape"] == "8b", *cell_of(row)[1:])):
        cold = [row.get(f"cold_{name}_wall") for name in ("open", "task")]
        lines.append(
            [
                *(row[key] for key in ("shape", "modules", "width", "tasks", "rank", "tool")),
                _said(row, "merge"),
                f"{row['merge_ratio']:.2f}" if "merge_ratio" in row else "",
                f"{sum(cold):.3f}" if all(x is not None for x in cold) else "",
                _said(row, "export") if "export_wall" in row else "",
                f"{row['peak_less_imported_mib']:.0f}" if "peak_mib" in row else "",
            ]
        )
    heads = ["shape", "modules", "width", "tasks", "rank", "tool", "merge_s", "ratio"]
    return [*heads, "cold_open_and_task_s", "export_s", "mib"], lines


_STYLES = {
    "hydraopt": ("black", "o-"),
    "lorashare": ("#3c9a5f", "D--"),
    "vlora": ("#c79ae0", "v:"),
    "vlora fp32": ("#8a5bb0", "v--"),
    "peft svd": ("#d9762b", "s--"),
    "mergekit extract": ("#7a7a7a", "^--"),
}
_PANELS = (
    ("square", "tasks", ("merge_wall",), "merge, seconds"),
    ("square", "rank", ("merge_wall",), "merge, seconds"),
    ("square", "width", ("merge_wall",), "merge, seconds"),
    ("8b", "tasks", ("merge_wall",), "merge, seconds"),
    ("square", "tasks", ("cold_open_wall", "cold_task_wall"), "cold open and first task, seconds"),
    ("square", "tasks", ("peak_less_imported_mib",), "peak memory of the main process, MiB"),
)
_LABELS = {"tasks": "adapters", "rank": "rank", "width": "width"}


def _along(rows: Sequence[Row], shape: str, axis: str) -> list[Row]:
    """Return the rows of the longest line along an axis."""
    lines: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["shape"] == shape:
            lines[tuple(row[name] for name in PLACE if name != axis)].append(row)
    return max(lines.values(), key=lambda line: len({row[axis] for row in line}), default=[])


def draw_cells(rows: Sequence[Row], path: Path) -> None:
    """Draw six logarithmic panels; a run over the limit is a cross above it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    for axis, (shape, name, keys, label) in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        line = _along(rows, shape, name)
        for place, (tool, (colour, style)) in enumerate(_STYLES.items()):
            mine = sorted((row for row in line if row["tool"] == tool), key=lambda row: row[name])
            ended = [row for row in mine if all(key in row for key in keys)]
            axis.plot(
                [row[name] for row in ended],
                [sum(row[key] for key in keys) for row in ended],
                style,
                color=colour,
                label=tool,
            )
            over = [row for row in mine if "over" in row and keys == ("merge_wall",)]
            # Not all on one spot: several tools may be over the same limit.
            heights = [row["over"] * 1.08**place for row in over]
            axis.plot([row[name] for row in over], heights, "x", color=colour, ms=8)
        axis.set_title(_title(line, shape, name), fontsize=10)
        if not any(len(drawn.get_xdata()) for drawn in axis.lines):
            axis.set_axis_off()  # a logarithmic axis of nothing has no ends
            continue
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        ticks = sorted({row[name] for row in line})
        axis.set_xticks(ticks, [str(x) for x in ticks])
        axis.set_xticks([], minor=True)
        axis.set_xlabel(_LABELS[name])
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, which="both")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle("crosses: over the time limit; a tool without a point failed", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _title(line: Sequence[Row], shape: str, axis: str) -> str:
    if not line:
        return f"{shape}: not measured"
    count = line[0]["modules"]
    parts = [f"{count} modules of 8B layers" if shape == "8b" else f"{count} square modules"]
    if axis != "width" and shape != "8b":
        parts.append(f"width {line[0]['width']}")
    parts += [f"rank {line[0]['rank']}"] * (axis != "rank")
    parts += [f"{line[0]['tasks']} adapters"] * (axis != "tasks")
    return ", ".join(parts)


def _result() -> Any:
    return json.loads((SPEED / "scaling.json").read_text(encoding="utf-8"))


SECTIONS = {"scaling": lambda: block(_result())}
TABLES = {"scaling.csv": lambda: cells(_result())}


def draw() -> None:
    """Draw the picture of the section."""
    draw_cells(_result()["rows"], pages.PICTURES / _PICTURE)
