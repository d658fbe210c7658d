"""How merging and reading grow: a section and a picture of the cells of speed/scaling.py, and how
much faster each cell is than an earlier revision."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.common import SPEED
from benchmarks.reports.tables import MISSING, table, wrapped
from benchmarks.speed.exponents import PLACE, cell_of

__all__ = ["SECTIONS", "against", "block", "draw", "draw_cells"]

Row = Mapping[str, Any]
_PICTURE = "scaling.png"


def _said(row: Row, key: str) -> str:
    if f"{key}_wall" in row:
        return f"{row[f'{key}_wall']:.2f}"
    if key == "merge" and "over" in row:
        return f"over {row['over']}"
    return "failed" if "failed" in row else "-"


def block(result: Mapping[str, Any]) -> str:
    """The section of docs/evidence/speed.md: times, ratios, exponents and failures."""
    rows = sorted(result["rows"], key=lambda row: (row["shape"] == "8b", *cell_of(row)[1:]))
    head = ["modules", "T", "r", "tool", "merge s", "ratio", "cold open + task s", "export s"]
    lines = []
    for row in rows:
        cold = [row.get(f"cold_{name}_wall") for name in ("open", "task")]
        lines.append(
            [
                f"{row['modules']} of width {row['width']}"
                + (", 8B" if row["shape"] == "8b" else ""),
                str(row["tasks"]),
                str(row["rank"]),
                row["tool"],
                _said(row, "merge"),
                f"{row['merge_ratio']:.2f}" if "merge_ratio" in row else "-",
                f"{sum(cold):.3f}" if all(x is not None for x in cold) else "-",
                _said(row, "export") if "export_wall" in row else "-",
                f"{row['peak_less_imported_mib']:,.0f}" if "peak_mib" in row else "-",
            ]
        )
    grown = [
        [
            line["tool"],
            line["axis"],
            "8B layers" if line["at"]["shape"] == "8b" else "square",
            f"{line['exponent']:.2f}",
            f"{line['spread']:.2f}",
            str(line["points"]),
        ]
        for line in result["exponents"]
        if line["operation"] == "merge"
    ]
    failed = sorted({(row["tool"], row["failed"]) for row in rows if "failed" in row})
    parts = [
        f"{result['hardware']['cpu']}, {result['hardware']['cores']} cores; at most "
        f"{result['limit']} s a run, medians of {result['repeats']}; load when a cell began: at "
        f"most {max(row['load_1min'] for row in rows)}.\n",
        "![Seconds and memory against adapters, rank and width](picture:scaling.png)\n",
        "Exponents of the merge: seconds grow as that power, from least squares of the logarithms; "
        "a spread of 1.1 means that a point lies 10 % off the line.\n",
        table(["tool", "in", "modules", "exponent", "spread", "points"], grown),
        table([*head, "MiB"], lines),
    ]
    if failed:
        parts.append(table(["tool", "what it said"], failed))
    return "\n".join(parts)


def against(result: Mapping[str, Any]) -> str:
    """The table of ``python -m benchmarks.speed revisions --only table``, and its least ratio."""
    rows = result["rows"]
    least = min(rows, key=lambda row: float(row["faster"]))
    bytes_differ = sum(row["old_bytes"] != row["new_bytes"] for row in rows)
    worse = max(row["error_ratio"] for row in rows)
    told = wrapped(
        f"Merges to {least['size']} on one core, this tree against {result['against']}: the least "
        f"CPU seconds of {result['rounds']} x {result['repeats']} merges each, in turn. At the "
        f"least {least['faster']:.2f} times as fast: {least['set']}, {least['tasks']} adapters of "
        f"rank {least['rank']}. Bytes differ in {bytes_differ} of {len(rows)} cells, and the mean "
        f"error is at most {worse:.4f} times what it was."
    )
    lines = [
        [
            row["set"],
            str(row["tasks"]),
            str(row["rank"]),
            f"{row['old_cpu']:.2f}",
            f"{row['new_cpu']:.2f}",
            f"{row['faster']:.2f}",
            f"{row['new_bytes'] / row['old_bytes']:.4f}",
            f"{row['error_ratio']:.4f}",
        ]
        for row in rows
    ]
    head = ["modules", "T", "r", "CPU s before", "after", "times faster", "bytes", "error"]
    return f"{told}\n{table(head, lines)}"


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
    ("square", "tasks", ("peak_less_imported_mib",), "peak memory of the merge, MiB"),
)
_LABELS = {"tasks": "adapters", "rank": "rank", "width": "width"}


def _along(rows: Sequence[Row], shape: str, axis: str) -> list[Row]:
    """The rows of the longest line along an axis."""
    lines: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["shape"] == shape:
            lines[tuple(row[name] for name in PLACE if name != axis)].append(row)
    return max(lines.values(), key=lambda line: len({row[axis] for row in line}), default=[])


def draw_cells(rows: Sequence[Row], path: Path) -> None:
    """Six panels, logarithmic; a run over the limit is a cross above it."""
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


def _against() -> str:
    path = SPEED / "revisions-table.json"
    return against(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else MISSING


SECTIONS = {"scaling": lambda: block(_result()), "revisions": _against}


def draw() -> None:
    """The picture of the section."""
    draw_cells(_result()["rows"], pages.PICTURES / _PICTURE)
