"""HydraOpt over heads and ranks, as the paper shows its trade-off: the table and the picture."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.reports.axes import size_axis
from benchmarks.reports.scores import drops, result_files, row_of
from benchmarks.reports.tables import MISSING

__all__ = ["SECTIONS", "TABLES", "draw", "draw_map", "every_setting", "head_map"]

Row = Mapping[str, Any]
_SETTING = re.compile(r"M=(\d+) r=(\d+)")
_LARGEST = 105.0
"""Percent of fp16; the map goes beyond, where nobody needs a compressor."""
HEAD = ["set", "heads", "rank", "bytes", "size_pct", "error", "kl", "mean_drop_pct", "low", "high"]


def _maps(folder: Path) -> Iterator[tuple[str, Mapping[str, Any], dict[tuple[int, int], Row]]]:
    """File name, result, and the rows by (heads, rank); scores are there where it was scored."""
    for name, result in result_files(folder):
        if result["plan"] != "map":
            continue
        found: dict[tuple[int, int], Row] = {}
        for label, method in result["methods"].items():
            match = _SETTING.fullmatch(method["setting"])
            if match is None:
                raise ValueError(f"{name}: expected a setting 'M=.. r=..', found {method!r}")
            errors = list(method["errors"].values())
            row = {**method, "relative_error": sum(errors) / len(errors)}
            if drops(result, label):
                row |= row_of(name, result, label)
            found[int(match[1]), int(match[2])] = row
        yield name, result, dict(sorted(found.items()))


def head_map(folder: Path = QUALITY) -> str:
    """Return the picture; map.csv has bytes, error and score of each number of heads and rank."""
    if not any(_maps(folder)):
        return MISSING
    return "![HydraOpt over heads and ranks](picture:map.png)\n"


def every_setting(folder: Path = QUALITY) -> Table:
    """Return one row for each number of heads and rank, without scores if it was not scored."""
    lines = []
    for _, result, rows in _maps(folder):
        for (heads, rank), row in rows.items():
            cells: list[object] = [
                result["set"],
                heads,
                rank,
                row["bytes"],
                f"{row['size_pct']:.1f}",
            ]
            cells.append(f"{row['relative_error']:.3f}")
            if "mean_drop_pct" in row:
                ends = row["mean_drop_pct"], *row["mean_drop_interval"]
                cells += [f"{row['kl']:.2g}", *(f"{x:.1f}" for x in ends)]
            else:
                cells += [""] * 4
            lines.append(cells)
    return HEAD, lines


def draw_map(path: Path, folder: Path = QUALITY) -> None:
    """Error and, where it was scored, drop against bytes: a line for each number of heads."""
    import matplotlib.pyplot as plt

    maps = list(_maps(folder))
    panels = [
        (result["set"], rows, key, title)
        for _, result, rows in maps
        for key, title in (
            ("relative_error", "relative error"),
            ("mean_drop_pct", "mean drop, % of the score"),
        )
        if any(key in row for row in rows.values())
    ]
    if not panels:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 4.4), squeeze=False)
    for axis, (name, rows, key, title) in zip(axes[0], panels, strict=True):
        for heads in dict.fromkeys(heads for heads, _ in rows):
            mine = [
                (rank, row["size_pct"], row[key])
                for (count, rank), row in rows.items()
                if count == heads and key in row and row["size_pct"] <= _LARGEST
            ]
            axis.plot([x for _, x, _ in mine], [y for _, _, y in mine], "o-", label=f"M = {heads}")
            for rank, x, y in mine:
                axis.annotate(f"{rank}", (x, y), (3, 4), textcoords="offset points", fontsize=7)
        size_axis(axis)
        axis.set_xlabel("bytes, % of the adapters in fp16; numbers at the points: rank")
        axis.set_ylabel(title)
        axis.set_title(name)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


SECTIONS = {"map": head_map}
TABLES = {"map.csv": every_setting}


def draw() -> None:
    """The picture of all maps."""
    draw_map(pages.PICTURES / "map.png")
