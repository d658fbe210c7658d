"""Draw what ``hydraopt inspect`` reports, and plans.

matplotlib is an optional dependency and loads in here only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydraopt.errors import UsageError, explain, require
from hydraopt.files import destination, replaced_file
from hydraopt.inspect import AdaptersReport
from hydraopt.merging import HARM_UNITS, Plan, plan_limit
from hydraopt.notes import counted

_SUFFIXES = (".png", ".svg", ".pdf")
_MOST_LABELS = 40
_LEAST_DRAWN = {"%": 0.01, "nats": 1e-5}
"""Less harm than this, by its unit, is drawn as this: the axis is logarithmic."""
_COLOURS = (
    "#1f5fa8", "#d9762b", "#3c9a5f", "#8a5bb0", "#7a7a7a", "#b5403a", "#1c1c1c", "#62c4de",
)  # fmt: skip
_MARKERS = "os^DvPX*"
"""Marker of each colour, for readers who cannot distinguish the colours."""
_MOST_TASKS, _MOST_ROWS, _MOST_TYPES = 60, 200, 12


def check_plot(path: str | os.PathLike[str]) -> None:
    """Raise UsageError unless a picture could be written to ``path``; call it before the work."""
    if Path(path).suffix.lower() not in _SUFFIXES:
        raise UsageError(
            explain("unknown kind of picture", file=path, expected=" or ".join(_SUFFIXES))
        )
    require("matplotlib")
    folder = destination(Path(path)).parent
    if not folder.is_dir():
        raise UsageError(explain("no folder for the picture", file=path, got=f"no {folder.name}/"))


def draw(report: AdaptersReport | Plan, path: str | os.PathLike[str]) -> None:
    """Write the picture of a report; the suffix of ``path`` says the format.

    Raises UsageError for an unknown suffix, or without matplotlib.
    """
    check_plot(path)
    figure = figure_of(report)
    with replaced_file(path, Path(path).suffix) as made:
        figure.savefig(made, dpi=130)


def figure_of(report: AdaptersReport | Plan) -> Any:
    """Return the picture as a matplotlib figure."""
    return _draw_adapters(report) if isinstance(report, AdaptersReport) else _draw_plan(report)


def _figure(rows: int, columns: int, height: float, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4 * columns, height), layout="constrained")
    figure.suptitle(title, fontsize=13)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel():
        axis.title.set_fontsize(11)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plain(text: str, most: int = 40) -> str:
    """Return a name as a label: matplotlib's "$" escaped, the middle of long names cut."""
    if len(text) > most:
        text = f"{text[: most // 2 - 1]}..{text[-most // 2 + 1 :]}"
    return text.replace("$", r"\$")


def _nothing(axis: Any, text: str) -> None:
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes, color="0.4")
    axis.set_axis_off()


def _draw_adapters(report: AdaptersReport) -> Any:
    count = len(report.tasks)
    base = report.base_model or "an unnamed base"
    figure, axes = _figure(1, 3, 5.0, f"{counted(count, 'adapter')} of {_plain(base, 60)}")
    names = report.likeness.tasks
    _heat(axes[0, 0], report.likeness.a, names, "Cosine of the A's as given")
    _heat(axes[0, 1], report.likeness.products, names, "Cosine of the products dW")
    _sizes(axes[0, 2], report)
    return figure


def _heat(axis: Any, matrix: Sequence[Sequence[float | None]], names: Any, title: str) -> None:
    axis.set_title(title)
    if len(names) < 2:
        _nothing(axis, "one adapter: nothing to compare")
        return
    values = [[float("nan") if x is None else x for x in row] for row in matrix]
    image = axis.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    axis.figure.colorbar(image, ax=axis, shrink=0.8)
    if len(names) <= _MOST_LABELS:
        labels = [_plain(name, 24) for name in names]
        size = 9 if len(names) <= 16 else 6
        axis.set_xticks(range(len(names)), labels, rotation=60, ha="right", fontsize=size)
        axis.set_yticks(range(len(names)), labels, fontsize=size)
    if len(names) <= 12:
        for i, row in enumerate(values):
            for j, x in enumerate(row):
                colour, text = "white" if abs(x) > 0.6 else "black", "-" if x != x else f"{x:.2f}"
                axis.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)


def _sizes(axis: Any, report: AdaptersReport) -> None:
    axis.set_title("Size of a merge by its mean error")
    points = report.curve
    if not points:
        _nothing(axis, "nothing to code")
        return
    x, y = [100 * p.private_fraction for p in points], [p.private_error for p in points]
    axis.plot(x, y, "s--", color=_COLOURS[1], label="private form alone", markersize=4)
    x, y = [100 * p.fraction for p in points], [p.error for p in points]
    axis.plot(x, y, "o-", color=_COLOURS[0], label="all forms", markersize=4)
    axis.set_xscale("log")
    axis.set_xlabel("size of the bundle, % of the fp16 bytes")
    axis.set_ylabel("relative Frobenius error, mean over tasks")
    axis.set_ylim(0, None)
    low, high = axis.get_xlim()
    ticks = [x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= x <= high]
    axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axis.minorticks_off()
    axis.grid(color="0.9")
    axis.legend(frameon=False, fontsize=8)


def _draw_plan(plan: Plan) -> Any:
    """Draw a line for each task, and a mark where the plan puts it."""
    from matplotlib.ticker import LogLocator, NullFormatter

    factor, unit, what = HARM_UNITS[plan.counted]
    limit = plan_limit(plan)
    title = f"{counted(len(plan.tasks), 'task')}: harm against bytes, limit {limit}"
    figure, axes = _figure(1, 1, 6.0, title)
    figure.set_size_inches(9.0, 6.0)
    axis, least = axes[0, 0], _LEAST_DRAWN[unit]
    pairs = ((x, x.harm.likely if x.harm and x.counted is None else x.counted) for x in plan.tasks)
    measured = [(x, harm) for x, harm in pairs if harm is not None]
    worst = [x for x, _ in sorted(measured, key=lambda pair: -pair[1])[: len(_COLOURS)]]
    for task, harm in measured:
        colour = _COLOURS[worst.index(task)] if task in worst else "0.75"
        sizes = [trial.size / 1e3 for trial in task.trials]
        harms = [max(factor * trial.counted, least) for trial in task.trials]
        axis.plot(sizes, harms, "-", color=colour, lw=1, zorder=2 + (task in worst))
        label = _plain(task.name) if task in worst else None
        at = task.size / 1e3, max(factor * harm, least)
        axis.plot(*at, "o", color=colour, label=label, zorder=3 + (task in worst))
    if plan.limit != "size":
        axis.axhline(factor * plan.value, color="0.2", ls="--", lw=1, label=f"limit: {limit}")
    axis.set(xscale="log", yscale="log", xlabel="kB a task, its share of the core among them")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(LogLocator(subs=(1, 2, 5)))
        side.set_major_formatter("{x:g}")
        side.set_minor_formatter(NullFormatter())
    axis.set_ylabel(f"{what}, {unit}")
    axis.set_title("dots: where the plan puts each task; named: the most harmed", fontsize=10)
    axis.grid(alpha=0.25)
    if worst or plan.limit != "size":
        axis.legend(fontsize=9)
    return figure
