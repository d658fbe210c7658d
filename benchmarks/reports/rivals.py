"""Rivals on whole sets: picture of KL against size, and bytes at the KL of each of their sizes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from benchmarks import pages
from benchmarks.quality.sets import pinned
from benchmarks.reports.axes import size_axis
from benchmarks.reports.factors import LARGEST, Compared, cell, has_curve
from benchmarks.reports.same_rows import Cost, Result, costs_of, size_of
from benchmarks.reports.tables import MISSING, table
from benchmarks.rivals.base import METHOD, WITH_PROMPTS

__all__ = ["SECTIONS", "draw"]

_NAME = "rivals.png"
_MOST: Final = 50.0
"""Percent of changed answers from which a row is not in the table; same-rows.csv has it."""
_COLUMNS: Final = 3
"""Panels of the picture in a row."""
_LOST = "changes > 80 % of the answers"
_MARKERS = "os^vDP*X<>ph"
Points = dict[str, list[tuple[float, float]]]
"""By method, percent of the fp16 bytes and KL of its sizes, the largest first."""


def _sets() -> dict[Result, Points]:
    """Return the points of each whole set; methods with prompts are left out."""
    found: dict[Result, Points] = {}
    for result, method, label, cost in costs_of():
        share = 100 * result.methods[label]["share"]
        if result.is_whole and not method.endswith(WITH_PROMPTS) and share <= 100 * LARGEST:
            points = found.setdefault(result, {})
            points.setdefault(_kind(method, cost), []).append((share, cost.kl[1]))
    return found


def _kind(method: str, cost: Cost) -> str:
    """Return the name of a line; methods that change nearly all answers share one."""
    return method if method == METHOD or cost.changed < 80 else _LOST


def _drawn(axis: Any, points: Points, styles: dict[str, dict[str, Any]]) -> None:
    for kind, sizes in points.items():
        if kind not in styles:
            number = len(styles)
            color = "black" if kind == METHOD else f"C{number % 10}"
            styles[kind] = {"color": color, "marker": _MARKERS[number % len(_MARKERS)]}
        line = "none" if kind == _LOST else "-"
        width = 2.0 if kind == METHOD else 0.8
        share, kl = zip(*sizes, strict=True)
        style = {**styles[kind], "linestyle": line, "linewidth": width, "markersize": 5}
        axis.plot(share, kl, label=kind, **style)


def picture() -> str:
    """Return the link to the picture."""
    return (
        f"![KL of hydraopt and of all rivals against size, a panel for each set](picture:{_NAME})\n"
    )


def draw() -> None:
    """Draw the geometric mean of KL over the tasks against size, a panel for each set.

    The place after the last panel has the legend.
    """
    import matplotlib.pyplot as plt

    sets, styles = _sets(), dict[str, dict[str, Any]]()
    rows = len(sets) // _COLUMNS + 1
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(12, 4 * rows), layout="constrained")
    for axis, (result, points) in zip(axes.ravel(), sets.items(), strict=False):  # some are left
        _drawn(axis, points, styles)
        size_axis(axis, (1, 2, 5, 10, 20, 50))
        axis.set_yscale("log")
        axis.set_title(f"{size_of(result.base)}, {result.set}")
        axis.set_xlabel("bytes, % of the adapters in fp16")
        axis.set_ylabel("KL, nats an answer")
    for axis in axes.ravel()[len(sets) :]:
        axis.set_axis_off()
    named = {
        label: handle
        for axis in axes.ravel()
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    axes.ravel()[len(sets)].legend(named.values(), named.keys(), loc="center", frameon=False)
    figure.savefig(pages.PICTURES / _NAME, dpi=100, metadata={"Software": None})
    plt.close(figure)


def _for_any_size(result: Result, label: str) -> str:
    """Return a rival's bytes over those of hydraopt at the KL of the rival's size.

    The geometric mean over the tasks, with the 95 % interval of a bootstrap over the tasks.
    """
    compared = Compared.of(result, label, METHOD)
    if compared is None:
        return "-"
    whole = [x.inverse() for x in compared.factors()]
    logs = np.array([x.log for x in whole])
    drawn = np.random.default_rng(0).integers(0, len(logs), (1000, len(logs)))
    return cell(whole, logs[drawn].mean(axis=1), [])


def of_rivals() -> str:
    """Return for each size of the other rivals its bytes over hydraopt's at its KL, by set.

    Its share of the fp16 bytes and its changed answers are those of the first set that has it. Rows
    that change most answers there are left out.
    """
    lines: dict[tuple[str, str], dict[str, str]] = {}
    sets = dict[str, None]()
    for result, method, label, cost in costs_of():
        if not result.is_whole or has_curve(method):
            continue
        # As many heads as tasks are named alike in all sets.
        setting = result.methods[label]["setting"]
        setting = setting.replace(f"M={len(pinned()[result.set])} ", "M=T ")
        if (method, setting) not in lines and cost.changed > _MOST:
            continue
        sets[result.set] = None
        about = f"{100 * result.methods[label]['share']:.0f} %", f"{cost.changed:.1f} %"
        first = {"of fp16": about[0], "answers changed": about[1]}
        line = lines.setdefault((method, setting), first)
        line[f"`{result.set}`"] = _for_any_size(result, label)
    head = ["of fp16", "answers changed", *(f"`{x}`" for x in sets)]
    rows = [[*x, *(cells.get(y, "") for y in head)] for x, cells in lines.items()]
    return table(["rival", "setting", *head], rows) if rows else MISSING


SECTIONS = {"rivals": of_rivals, "rivals in a picture": picture}
