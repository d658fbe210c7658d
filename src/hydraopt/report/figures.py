"""Draw what ``hydraopt inspect`` reports, and plans.

matplotlib is an optional dependency and loads in here only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydraopt.errors import UsageError, explain
from hydraopt.extras import require
from hydraopt.files.outputs import destination
from hydraopt.files.writing import replaced_file
from hydraopt.inspect.adapters import AdaptersReport
from hydraopt.inspect.bundle import BundleReport
from hydraopt.inspect.summary import ModuleComparison
from hydraopt.merging.plan import HARM_UNITS, Plan, plan_limit
from hydraopt.values import counted

__all__ = ["check_plot", "draw", "figure_of"]

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


def draw(report: AdaptersReport | BundleReport | Plan, path: str | os.PathLike[str]) -> None:
    """Write the picture of a report; the suffix of ``path`` says the format.

    Raises UsageError for an unknown suffix, or without matplotlib.
    """
    check_plot(path)
    figure = figure_of(report)
    with replaced_file(path, Path(path).suffix) as made:
        figure.savefig(made, dpi=130)


def figure_of(report: AdaptersReport | BundleReport | Plan) -> Any:
    """Return the picture as a matplotlib figure."""
    if isinstance(report, AdaptersReport):
        return _draw_adapters(report)
    return _draw_bundle(report) if isinstance(report, BundleReport) else _draw_plan(report)


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


def _short(kind: str) -> str:
    """Return the last two names of a module type."""
    return _plain(".".join([name for name in kind.split(".") if name != "*"][-2:]), 32)


def _title(axis: Any, text: str, shown: int, count: int, what: str) -> None:
    """Set the title, with the number of drawn items if not all are drawn.

    what: text such as "first {} of {} tasks".
    """
    axis.set_title(text if shown == count else f"{text}\n{what.format(shown, count)}")


def _nothing(axis: Any, text: str) -> None:
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes, color="0.4")
    axis.set_axis_off()


def _draw_adapters(report: AdaptersReport) -> Any:
    count = len(report.tasks)
    base = report.base_model or "an unnamed base"
    figure, axes = _figure(2, 3, 9.0, f"{counted(count, 'adapter')} of {_plain(base, 60)}")
    names = report.likeness.tasks
    _heat(axes[0, 0], report.likeness.a, names, "Cosine of the A's as given")
    _heat(axes[0, 1], report.likeness.products, names, "Cosine of the products dW")
    _energy(axes[0, 2], report)
    _profile(axes[1, 0], report.modules)
    _savings(axes[1, 1], report)
    _sizes(axes[1, 2], report)
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


def _energy(axis: Any, report: AdaptersReport) -> None:
    by_type: dict[str, list[Sequence[float]]] = {}
    for row in report.modules:
        if row.spectrum:
            by_type.setdefault(row.type, []).append(row.spectrum)
    shown = list(by_type.items())[: len(_COLOURS)]
    text = "Energy in the k largest parts of a module"
    _title(axis, text, len(shown), len(by_type), "first {} of {} types")
    for (kind, curves), colour, marker in zip(shown, _COLOURS, _MARKERS, strict=False):
        length = max(map(len, curves))
        full = [[*curve, *[1.0] * (length - len(curve))] for curve in curves]
        mean = [sum(column) / len(full) for column in zip(*full, strict=True)]
        style = {"color": colour, "marker": marker, "markersize": 4}
        axis.plot(range(1, length + 1), mean, label=_short(kind), **style)
    for share in (0.9, 0.99):
        axis.axhline(share, color="0.7", linewidth=0.8, linestyle=":")
        axis.annotate(f"{share:.0%}", (1, share), xycoords=("axes fraction", "data"), fontsize=8)
    axis.set_xlabel("k")
    axis.set_ylabel("share of |dW|², mean over tasks and layers")
    lowest = min((axis.lines[i].get_ydata()[0] for i in range(len(shown))), default=0.0)
    axis.set_ylim(max(0.0, lowest - 0.1), 1.02)
    if by_type:
        axis.legend(frameon=False, fontsize=8, loc="lower right")


def _profile(axis: Any, modules: Sequence[ModuleComparison]) -> None:
    axis.set_title("Likeness by module, in order of the file")
    kinds = {
        "A": [row.a_cosine for row in modules],
        "B": [row.b_cosine for row in modules],
        "dW": [row.product_cosine for row in modules],
    }
    for i, (label, cosines) in enumerate(kinds.items()):
        points = [(x, cosine) for x, cosine in enumerate(cosines) if cosine is not None]
        if points:
            axis.plot(*zip(*points, strict=True), ".", color=_COLOURS[i], label=f"cos {label}")
    axis.axhline(0, color="0.7", linewidth=0.8)
    axis.set_xlabel("module")
    axis.set_ylabel("mean over pairs of tasks")
    axis.set_ylim(min(-0.1, axis.get_ylim()[0]), 1.03)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(frameon=False, fontsize=8)


def _savings(axis: Any, report: AdaptersReport) -> None:
    point = report.reference
    if point is None:
        _nothing(axis, "nothing to code")
        return
    every = [(row, row.sharing) for row in report.types if row.sharing]
    rows = sorted(every, key=lambda pair: pair[1].private_bytes)[-_MOST_TYPES:]
    text = f"Bytes by type of module at {100 * point.fraction:.1f} % of fp16"
    _title(axis, text, len(rows), len(every), "largest {} of {} types")
    places = range(len(rows))
    alone = [sharing.private_bytes / 1000 for _, sharing in rows]
    saved = [sharing.saved_bytes / 1000 for _, sharing in rows]
    rest = [a - s for a, s in zip(alone, saved, strict=True)]
    axis.barh(places, rest, color=_COLOURS[0], label="with shared forms, at equal cost")
    axis.barh(places, saved, left=rest, color=_COLOURS[1], label="saved by sharing")
    for place, (_, sharing) in zip(places, rows, strict=True):
        text = f" {100 * sharing.saved:.1f} %"
        axis.text(alone[place], place, text, va="center", fontsize=8)
    axis.set_yticks(places, [f"{_short(row.type)} ({row.modules})" for row, _ in rows], fontsize=8)
    axis.set_xlim(0, 1.15 * max(alone, default=1.0))
    axis.set_xlabel("estimated kB; the whole bar is the private form alone")
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)


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


def _draw_bundle(report: BundleReport) -> Any:
    from hydraopt.inspect.originals import Originals, compared

    tasks = report.tasks
    height = 4.5 + 0.18 * min(len(tasks), _MOST_TASKS)
    title = f"{Path(report.path).name}: {report.size:,} bytes"
    originals = Originals(report.original_bytes, report.originals)
    whole = compared(report.size, originals)
    figure, axes = _figure(1, 3, height, f"{_plain(title, 80)}, {whole}")
    _task_bytes(axes[0, 0], report)
    _error_map(axes[0, 1], report)
    _type_bytes(axes[0, 2], report)
    return figure


def _task_bytes(axis: Any, report: BundleReport) -> None:
    every = report.tasks
    tasks = sorted(every, key=lambda x: x.own_bytes + x.carried_bytes)[-_MOST_TASKS:]
    text = "Bytes of each task, and its error"
    _title(axis, text, len(tasks), len(every), "largest {} of {} tasks")
    places = range(len(tasks))
    own = [x.own_bytes / 1000 for x in tasks]
    carried = [x.carried_bytes / 1000 for x in tasks]
    axis.barh(places, own, color=_COLOURS[0], label="own stream")
    if any(carried):
        axis.barh(places, carried, left=own, color=_COLOURS[1], label="carried bit by bit")
    for place, task in zip(places, tasks, strict=True):
        total = own[place] + carried[place]
        axis.text(total, place, f" {task.error:.3f}", va="center", fontsize=8)
    axis.set_yticks(places, [_plain(x.name, 28) for x in tasks], fontsize=8)
    most = max((a + b for a, b in zip(own, carried, strict=True)), default=1.0)
    axis.set_xlim(0, 1.18 * most or 1.0)
    axis.set_xlabel("kB; the number is the relative error")
    if any(carried):
        axis.legend(frameon=False, fontsize=8, loc="lower right")


def _error_map(axis: Any, report: BundleReport) -> None:
    tasks, text = report.tasks[:_MOST_ROWS], "Relative error of each task in each module"
    _title(axis, text, len(tasks), len(report.tasks), "first {} of {} tasks")
    place = {row.path: i for i, row in enumerate(report.modules)}
    if not place or not tasks:
        _nothing(axis, "nothing is coded")
        return
    values = [[float("nan")] * len(place) for _ in tasks]
    for i, task in enumerate(tasks):
        for detail in task.details:
            if detail.path in place:
                values[i][place[detail.path]] = detail.error
    image = axis.imshow(values, aspect="auto", cmap="viridis", interpolation="nearest", vmin=0)
    axis.figure.colorbar(image, ax=axis, shrink=0.8)
    if len(tasks) <= _MOST_LABELS:
        axis.set_yticks(range(len(tasks)), [_plain(x.name, 28) for x in tasks], fontsize=8)
    axis.set_xlabel("module, in order of the file")


def _type_bytes(axis: Any, report: BundleReport) -> None:
    rows = [(_short(x.type), x.bytes, sum(x.basis_bytes.values())) for x in report.types]
    count, rows = len(rows), sorted(rows, key=lambda x: x[1])[-_MOST_TYPES:]
    text = "Where the bytes of the file are"
    _title(axis, text, len(rows), count, "largest {} of {} types of modules")
    by_place = report.parts
    rows += [
        (f"({name})", by_place[name], 0)
        for name in ("carried", "manifest", "header")
        if by_place[name]
    ]
    places = range(len(rows))
    axis.barh(
        places, [(total - b) / 1000 for _, total, b in rows], color=_COLOURS[0], label="tasks"
    )
    if any(b for *_, b in rows):
        axis.barh(
            places,
            [b / 1000 for *_, b in rows],
            left=[(total - b) / 1000 for _, total, b in rows],
            color=_COLOURS[1],
            label="shared bases",
        )
        axis.legend(frameon=False, fontsize=8, loc="lower right")
    for place, (_, total, _) in zip(places, rows, strict=True):
        axis.text(
            total / 1000, place, f" {100 * total / report.size:.1f} %", va="center", fontsize=8
        )
    axis.set_yticks(places, [name for name, *_ in rows], fontsize=8)
    axis.set_xlim(0, 1.2 * max((total for _, total, _ in rows), default=1) / 1000 or 1.0)
    axis.set_xlabel("kB")


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
