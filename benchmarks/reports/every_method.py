"""The leaderboard and a picture for each set, from the result files alone.

Score and KL against bytes, all methods; relative error against bytes for a set that has no scores
yet. A method's line runs through its best row up to each size. Without result files the page says
so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.common import QUALITY
from benchmarks.quality.sets import METHOD
from benchmarks.reports.axes import size_axis
from benchmarks.reports.scores import (
    PROMPTED,
    bundle_error,
    bundle_key,
    every_row,
    result_files,
)
from benchmarks.reports.tables import CHANGED, changed, table
from benchmarks.rivals.one_for_all import ONE_FOR_ALL

__all__ = ["best", "by_tasks", "draw", "leaderboard", "rows_by_set", "series", "write"]

Row = Mapping[str, Any]

_LARGEST = 110.0
_MERGED = "one adapter for all"
_MARKERS = "osv^D<>pPXhd"
_HEAD = [
    "method",
    "setting",
    "tuned on validation",
    "bytes",
    "of fp16",
    "error",
    "mean drop",
    "95 %",
    "worst task",
    CHANGED,
    "test rows",
]
_COST = ["merge s", "peak MiB"]


def rows_by_set(folder: Path = QUALITY) -> dict[str, list[Row]]:
    """Every method and size of every set: its scores where there are any, over a part of the tasks
    as well, and bytes and errors of those that have none; smallest first."""
    found: dict[str, list[Row]] = {}
    scored = {
        name: {bundle_key(row): row for row in entry["rows"]}
        for name, entry in every_row(folder).items()
    }
    for _, result in result_files(folder):
        if result["plan"] in ("map", PROMPTED):
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


def _failures(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    for _, result in result_files(folder):
        for note in result.get("failures", {}).values():
            yield result["set"], note["method"], note["setting"], note["failed"]


def _cells(row: Row, tasks: int) -> list[str]:
    """tasks: those of the set; a row of fewer says so."""
    cells = [
        row["method"],
        row["setting"] or "-",
        "yes" if row["tuned"] else "-",
        f"{row['bytes']:,}",
        f"{row['size_pct']:.2f} %",
        f"{row['relative_error']:.3f}",
    ]
    if "mean_drop_pct" in row:
        low, high = row["mean_drop_interval"]
        cells += [f"{row['mean_drop_pct']:+.2f}", f"[{low:+.2f}, {high:+.2f}]"]
        cells += [f"{row['worst_drop_pct']:+.1f} ({row['worst_task']})", changed(row)]
        part = f" ({row['tasks']} tasks)" if row["tasks"] < tasks else ""
        cells.append(f"{row['test_rows']:,}{part}")
    else:
        cells += ["-"] * 5
    return [*cells, *("-" if row[key] is None else f"{row[key]:,.1f}" for key in
            ("merge_seconds", "peak_mib"))]  # fmt: skip


def leaderboard(folder: Path = QUALITY) -> str:
    """The page's text; says so where there is nothing to show."""
    lines = [
        "# Leaderboard",
        "",
        "Made by `python -m benchmarks.reports` from `benchmarks/results/quality`; do not",
        "edit. Drops are in percent of the original adapter's score on the task's own metric,",
        "negative is a gain, the interval is over test rows of these tasks; methods with more test",
        "rows have narrower ones; bytes are those of the files, everything counted; the error is",
        "|dW - dW~| / |dW|, which is no measure of harm: hydraopt's default measure gives a larger",
        "one than a plain coded SVD of as many bytes and a smaller KL. A `-` has not been",
        "measured. Rows of a part of the tasks say so beside",
        "their test rows; they cannot be held against those of all. What each method is:",
        f"{pages.shown(pages.ABOUT['methods'])}. Tuned on validation: the options in the setting",
        "were chosen for this set on validation rows (`benchmarks.quality methods SET --tune`).",
        "hydraopt's measure was chosen once, on validation rows of gemma3-5x8",
        f"({pages.shown(pages.ABOUT['evidence'])}), and is the same for every set.",
        "",
    ]
    sets = rows_by_set(folder)
    if not any(sets.values()):
        return "\n".join([*lines, "No result files yet: run `benchmarks.quality methods`.", ""])
    for name, rows in sets.items():
        lines += [f"## {name}", ""]
        if _drawn(rows):
            lines += [f"![{name}]({picture_of(name).relative_to(pages.BOARD.parent)})", ""]
        have = [row for row in rows if "mean_drop_pct" in row]
        tasks = max((row["tasks"] for row in have), default=0)
        if not have:
            lines += ["Not scored yet: bytes and errors alone.", ""]
        lines += [table([*_HEAD, *_COST], [_cells(row, tasks) for row in rows]), ""]
    failed = sorted(set(_failures(folder)))
    if failed:
        lines += ["## Failed", "", table(["set", "method", "setting", "what it said"], failed), ""]
    return "\n".join(lines)


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


def draw(name: str, rows: Sequence[Row], path: Path) -> None:
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


def write(check: bool = False, folder: Path = QUALITY) -> None:
    """The page and its pictures. check: change nothing; SystemExit where the page differs."""
    text = leaderboard(folder)
    if check:
        if pages.BOARD.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{pages.shown(pages.BOARD)} differs from the result files")
        return
    pages.BOARD.write_text(text, encoding="utf-8")
    for name, rows in rows_by_set(folder).items():
        if _drawn(rows):
            draw(name, rows, picture_of(name))


def _drawn(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is a line to see: some method has two sizes."""
    methods = [row["method"] for row in rows]
    return len(set(methods)) < len(methods)


def picture_of(name: str) -> Path:
    """The picture of a set."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-")
    return pages.BOARD_PICTURES / f"{plain}.png"
