"""Picture of KL against size: hydraopt and all rivals, on whole sets."""

from __future__ import annotations

from typing import Any

from benchmarks import pages
from benchmarks.reports.axes import size_axis
from benchmarks.reports.same_rows import Cost, Result, costs_of, size_of
from benchmarks.rivals.base import METHOD, WITH_PROMPTS

__all__ = ["SECTIONS", "draw"]

_NAME = "rivals.png"
_MOST = 60.0
"""Percent of the fp16 bytes up to which a rival is drawn."""
_LOST = "changes > 80 % of the answers"
_MARKERS = "os^vDP*X<>ph"
Points = dict[str, list[tuple[float, float]]]
"""By method, percent of the fp16 bytes and KL of its sizes, the largest first."""


def _sets() -> dict[Result, Points]:
    """Return the points of each whole set; methods with prompts are left out."""
    found: dict[Result, Points] = {}
    for result, method, label, cost in costs_of():
        share = 100 * result.methods[label]["share"]
        if result.is_whole and not method.endswith(WITH_PROMPTS) and share <= _MOST:
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
    return f"![KL of hydraopt and of all rivals against size, for four sets](picture:{_NAME})\n"


def draw() -> None:
    """Draw the geometric mean of KL over the tasks against size, a panel for each set."""
    import matplotlib.pyplot as plt

    sets, styles = _sets(), dict[str, dict[str, Any]]()
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for axis, (result, points) in zip(axes.ravel(), sets.items(), strict=False):
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
    figure.legend(named.values(), named.keys(), loc="outside right center", frameon=False)
    figure.savefig(pages.PICTURES / _NAME, dpi=100, metadata={"Software": None})
    plt.close(figure)


SECTIONS = {"rivals in a picture": picture}
