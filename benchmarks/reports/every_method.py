"""Every method and size of every set: bytes, error, time and memory, and a picture of a set.

A picture has score and KL against bytes, or the relative error for a set without scores. A
method's line runs through its best row up to each size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.quality.sets import METHOD
from benchmarks.reports.axes import size_axis
from benchmarks.reports.rivals import scored_rivals
from benchmarks.reports.scores import (
    bundle_error,
    bundle_key,
    every_row,
    result_files,
)
from benchmarks.reports.tables import MISSING
from benchmarks.rivals.one_for_all import ONE_FOR_ALL

__all__ = [
    "SECTIONS",
    "TABLES",
    "best",
    "by_tasks",
    "draw",
    "draw_set",
    "every_method",
    "every_picture",
    "rows_by_set",
    "series",
]

Row = Mapping[str, Any]

_LARGEST = 110.0
_MERGED = "one adapter for all"
_MARKERS = "osv^D<>pPXhd"
_COLUMNS = ("method", "setting", "bytes", "size_pct", "relative_error", "tasks")
_COST = ("merge_seconds", "peak_mib")


def rows_by_set(folder: Path = QUALITY) -> dict[str, list[Row]]:
    """Return every method and size of every set, smallest first.

    A row has scores if there are any, also over a part of the tasks, else only bytes and errors.
    """
    found: dict[str, list[Row]] = {}
    scored = {
        name: {bundle_key(row): row for row in entry["rows"]}
        for name, entry in every_row(folder).items()
    }
    for _, result in result_files(folder):
        if result["plan"] == "map":
            continue
        rows = found.setdefault(result["set"], [])
        for method in result["methods"].values():
            error = bundle_error(method)
            plain = {
                "method": method["method"],
                "setting": method["setting"],
                "bytes": method["bytes"],
                "size_pct": method["size_pct"],
                "relative_error": error,
                "bundle_error": error,
                "merge_seconds": method.get("merge_seconds"),
                "peak_mib": method.get("peak_mib"),
                "tuned": method.get("tuned"),
            }
            rows.append(plain | scored.get(result["set"], {}).get(bundle_key(plain), {}))
    for name, rows in found.items():
        # A bundle of hydraopt's that two plans hold stands here once.
        once = {bundle_key(row): row for row in rows}
        rows = found[name] = list(once.values())
        rows.sort(key=lambda row: (row["bytes"], row["method"]))
    return found


def every_method(folder: Path = QUALITY) -> Table:
    """Return one row for each method and size, scored or not, and for each that failed.

    tasks: number of scored tasks. tuned: whether the setting was chosen on validation rows.
    """
    rows = [
        [name, *(_cell(row.get(key)) for key in _COLUMNS), "yes" if row["tuned"] else "",
         *(_cell(row[key]) for key in _COST), ""]
        for name, found in rows_by_set(folder).items()
        for row in found
    ]  # fmt: skip
    failed = {
        (result["set"], note["method"], note["setting"], note["failed"])
        for _, result in result_files(folder)
        for note in result.get("failures", {}).values()
    }
    gap = [""] * (len(_COLUMNS) + len(_COST) - 1)
    rows += [[name, method, setting, *gap, why] for name, method, setting, why in sorted(failed)]
    return ["set", *_COLUMNS, "tuned", *_COST, "failed"], rows


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def every_picture(folder: Path = QUALITY) -> str:
    """Return the picture of the first set whose rivals were scored, and links to the others."""
    first, *others = _pictured(folder) or [""]
    if not first:
        return MISSING
    links = [f"[`{name}`](picture:{picture_of(name)})" for name in others]
    more = f"\nOther sets: {', '.join(links)}.\n" if links else ""
    return f"![All methods on {first}](picture:{picture_of(first)})\n{more}"


def _pictured(folder: Path) -> list[str]:
    return [result["set"] for _, result in scored_rivals(folder)]


def series(rows: Sequence[Row], key: str) -> dict[str, list[tuple[float, float]]]:
    """By method, (size, value) in order of size; what is larger than the originals is left out. All
    methods that make one adapter of all are one."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if key in row and row["size_pct"] <= _LARGEST:
            name = _MERGED if row["method"] in ONE_FOR_ALL else row["method"]
            found.setdefault(name, []).append((row["size_pct"], row[key]))
    return {name: sorted(points) for name, points in sorted(found.items())}


def best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points in order of size, those that are lower than all smaller ones."""
    found: list[tuple[float, float]] = []
    for size, value in points:
        if not found or value < found[-1][1]:
            found.append((size, value))
    return found


def _panel(
    axis: Any,
    whole: Sequence[Row],
    part: Sequence[Row],
    key: str,
    looks: Mapping[str, tuple[Any, str]],
) -> None:
    """Every row as a point, and through a method's best at each size its line; those of ``part``,
    of which fewer tasks were scored, hollow and on none. looks: colour and marker of a method."""
    for method, points in series(part, key).items():
        style = {**_style(method, looks), "zorder": 4, "fillstyle": "none"}
        axis.plot(*zip(*points, strict=True), looks[method][1], **style)
    for method, points in series(whole, key).items():
        marker, style = looks[method][1], _style(method, looks)
        ours = method == METHOD
        axis.plot(*zip(*points, strict=True), marker, markersize=4, alpha=0.35, **style)
        axis.plot(
            *zip(*best(points), strict=True),
            marker=marker,
            linewidth=2.5 if ours else 1.2,
            linestyle="none" if method == _MERGED else "-",
            markersize=7 if ours else 5,
            label=method,
            **style,
        )
    size_axis(axis)
    axis.set_xlabel("bytes, % of the adapters in fp16")
    axis.grid(alpha=0.25)


def _style(method: str, looks: Mapping[str, tuple[Any, str]]) -> dict[str, Any]:
    ours = method == METHOD
    return {"color": "black" if ours else looks[method][0], "zorder": 3 if ours else 2}


def by_tasks(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows of all tasks that any row is of, or that were not scored; and those of fewer."""
    most = max((row.get("tasks", 0) for row in rows), default=0)
    whole, part = list[Row](), list[Row]()
    for row in rows:
        (part if row.get("tasks", most) < most else whole).append(row)
    return whole, part


def draw_set(name: str, rows: Sequence[Row], path: Path) -> None:
    """All methods in one picture, hydraopt's own in front: score and KL, or errors if no more is
    known."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    tab = plt.color_sequences["tab20"]
    looks = {
        method: (tab[i % len(tab)], _MARKERS[i % len(_MARKERS)])
        for i, method in enumerate(series(rows, "relative_error"))
    }
    scored = any("mean_drop_pct" in row for row in rows)
    figure, axes = plt.subplots(1, 2 if scored else 1, figsize=(15 if scored else 10, 6.5))
    if scored:
        drop, kl = axes
        whole, part = by_tasks(rows)
        _panel(drop, whole, part, "mean_drop_pct", looks)
        drop.set_yscale("symlog", linthresh=1)
        marks = [-1, 0, 1, 2, 5, 10, 20, 50, 100]
        drop.set_yticks(marks, [str(y) for y in marks])
        drop.axhline(0, color="grey", linewidth=0.8)
        drop.set_ylabel("mean drop, % of the original's score (lower is better)")
        whole, few = ([x for x in some if x.get("kl", 0) > 0] for some in (whole, part))
        _panel(kl, whole, few, "kl", looks)
        kl.set_yscale("log")
        kl.set_ylabel("KL to the originals, nats a token (lower is better)")
        last = drop  # zips have no KL, and a drop of nothing
    else:
        last, part = axes, []
        _panel(last, rows, part, "relative_error", looks)
        last.set_ylabel("mean relative error (lower is better)")
        last.set_ylim(0, 2)
    # Beside the picture: two dozen names over the lines would hide them.
    handles, labels = last.get_legend_handles_labels()
    for method in sorted({*series(part, "mean_drop_pct")} - {*labels}):
        style = {**_style(method, looks), "marker": looks[method][1], "fillstyle": "none"}
        handles.append(Line2D([], [], linestyle="none", label=method, **style))
        labels.append(method)
    hollow = "; hollow: fewer tasks" if part else ""
    figure.suptitle(
        f"{name}: every row, lines through the best of a method up to each size{hollow}"
    )
    figure.legend(handles, labels, loc="center right", frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 0.86 if scored else 0.8, 0.98))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def draw(folder: Path = QUALITY) -> None:
    """Draw the pictures of the sets whose rivals were scored."""
    rows = rows_by_set(folder)
    for name in _pictured(folder):
        draw_set(name, rows[name], pages.PICTURES / picture_of(name))


def picture_of(name: str) -> str:
    """Return the file name of the picture of a set."""
    return f"methods-{re.sub(r'[^a-zA-Z0-9_.-]+', '-', name).strip('-')}.png"


SECTIONS = {"methods in pictures": every_picture}
TABLES = {"methods.csv": every_method}
