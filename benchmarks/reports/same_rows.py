"""What each size costs, on the same rows: scores, changed answers and KL, by set and base."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import pages
from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.quality.sets import SIZES, pinned
from benchmarks.reports.axes import size_axis
from benchmarks.reports.tables import MISSING, table
from benchmarks.rivals.base import METHOD, WITH_PROMPTS
from hydraopt.evaluate.tasks import metrics_of

__all__ = [
    "LEAST",
    "PROMPTED",
    "SECTIONS",
    "TABLES",
    "Cost",
    "Result",
    "Values",
    "costs_of",
    "counted",
    "draw",
    "picked",
    "results",
    "sampled",
    "size_of",
]

Values = NDArray[np.float64]
ORIGINAL: Final = "original"
PROMPTED: Final = f"{METHOD}{WITH_PROMPTS}"
_DRAWS: Final = 500
LEAST: Final = 1e-9
"""Least KL that is told apart."""
_SIZE: Final = re.compile(r"-([\d.]+)([mb])(?:-|$)")


@dataclass(frozen=True, eq=False)
class Result:
    """One set. methods: what the result says of each label. values: by adapter and label, (rows,
    2): whether an answer changes, and its KL. numbers: likewise, those of the task's metric, also
    of ORIGINAL. metrics: by adapter, the metric's name."""

    set: str
    base: str
    methods: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Mapping[str, Values]]
    numbers: Mapping[str, Mapping[str, Values]]
    metrics: Mapping[str, str]

    @property
    def is_whole(self) -> bool:
        """Return whether these are all adapters of a set, not a few of them."""
        return self.set in pinned()

    def of(self, method: str) -> dict[str, str]:
        """Return the labels of a method's sizes, the largest first; of hydraopt those of SIZES."""
        every = self.every_size_of(method)
        ours = method in (METHOD, PROMPTED)
        return {x: label for x, label in every.items() if x in SIZES or not ours}

    def every_size_of(self, method: str) -> dict[str, str]:
        """Return the labels of a method's sizes, with those for the noise of the rounding."""
        mine = [x for x, about in self.methods.items() if about["method"] == method]
        return {
            self.methods[x]["setting"]: x
            for x in sorted(mine, key=lambda x: -self.methods[x]["share"])
        }

    def drops(self, label: str) -> dict[str, float]:
        """Return by task how far the score falls, in percent of the original's.

        Tasks whose original scores nothing are left out.
        """
        found = {}
        for name, by in self.numbers.items():
            total = _total(self.metrics[name])
            if label in by and (whole := total(by[ORIGINAL])):
                found[name] = 100 * (whole - total(by[label])) / whole
        return found

    def scored(self, *labels: str) -> Result:
        """Return the result of the tasks that all of these labels were measured on."""
        return self.only([x for x, by in self.values.items() if {*labels} <= by.keys()])

    def only(self, tasks: Sequence[str]) -> Result:
        """Return the result of these tasks."""
        values, numbers = ({x: held[x] for x in tasks} for held in (self.values, self.numbers))
        return replace(self, values=values, numbers=numbers)


def picked(drawn: Values | None, rows: int) -> NDArray[np.int64]:
    """Return the rows of a task of so many rows; all if nothing was drawn.

    drawn: places in [0, 1), the same for all tasks, so that rows of one number, which are
    translations of each other in several languages, are drawn together.
    """
    if drawn is None:
        return np.arange(rows)
    found: NDArray[np.int64] = (drawn[:rows] * rows).astype(np.int64)
    return found


@functools.cache
def _total(metric: str) -> Callable[[Values], float]:
    """Return the function of a metric that scores the numbers of some rows."""
    return metrics_of(metric)[0].total


@functools.cache
def _drawn(result: Result, rows: int) -> NDArray[np.int64]:
    """Return the rows of a task of so many rows in each draw of the bootstrap, (draws, rows).

    The same for all methods, and of the same places in all tasks.
    """
    most = max(len(x) for by in result.numbers.values() for x in by.values())
    places = np.random.default_rng(0).random((_DRAWS, most))
    return np.stack([picked(x, rows) for x in places])


@functools.cache
def sampled(result: Result, label: str) -> dict[str, Values]:
    """Return by task the scores on drawn rows, (draws,)."""
    found = {}
    for name, by in result.numbers.items():
        if (numbers := by.get(label)) is not None:
            total, drawn = _total(result.metrics[name]), _drawn(result, len(numbers))
            found[name] = np.fromiter((total(numbers[x]) for x in drawn), np.float64, _DRAWS)
    return found


def results() -> list[Result]:
    """Return the sets, that of the smallest base first."""
    files = sorted(QUALITY.glob("*.equal-kl.json"))
    found = [_result(x.name.partition(".")[0], x.read_text(encoding="utf-8")) for x in files]
    return sorted(found, key=lambda x: _millions(x.base))


@functools.cache
def _result(name: str, text: str) -> Result:
    """Return a set from the text of its file."""
    stored = json.loads(text)
    values: dict[str, dict[str, Values]] = {}
    numbers: dict[str, dict[str, Values]] = {}
    metrics = {}
    for row in stored["rows"]:
        adapter, whole = row["adapter"], np.array(row["values"], np.float64)
        metrics[adapter] = row["metric"]
        numbers.setdefault(adapter, {})[row["method"]] = whole[:, 2:]
        if row["method"] != ORIGINAL:
            values.setdefault(adapter, {})[row["method"]] = whole[:, :2]
    return Result(name, stored["base"], stored["methods"], values, numbers, metrics)


@dataclass(frozen=True)
class Cost:
    """What a size costs, means over the tasks.

    drop: in percent. changed: percent of the answers. kl: arithmetic and geometric mean. worst:
    largest drop of a task, and the task.
    """

    drop: float
    changed: float
    kl: tuple[float, float]
    worst: tuple[float, str]

    @classmethod
    @functools.cache
    def of(cls, result: Result, label: str) -> Cost:
        mine = result.scored(label)
        by_task = mine.drops(label)
        changed, kl = np.array([by[label].mean(axis=0) for by in mine.values.values()]).T
        worst = max(by_task, key=lambda name: by_task[name])
        return cls(
            float(np.mean([*by_task.values()])),
            100 * float(np.mean(changed)),
            (float(np.mean(kl)), float(np.exp(np.mean(np.log(np.maximum(kl, LEAST)))))),
            (by_task[worst], worst),
        )


@dataclass(frozen=True)
class Bounds:
    """95 % intervals of the mean drop and of the changed answers, of a bootstrap over rows.

    most: one-sided upper bound of the drop. A bootstrap that saw hardly any answer change, or row
    lose, ends too low: no upper end is below that of so many rows without an event, a share of
    1 - a^(1/rows) of them. A lost row costs 100 / score percent of a task's score.
    """

    drop: tuple[float, float]
    most: float
    changed: tuple[float, float]

    @classmethod
    @functools.cache
    def of(cls, result: Result, label: str) -> Bounds:
        mine, old, new = result.scored(label), sampled(result, ORIGINAL), sampled(result, label)
        values = {name: by[label] for name, by in mine.values.items()}
        by_task = mine.drops(label)
        whole = {x: _total(mine.metrics[x])(mine.numbers[x][ORIGINAL]) for x in by_task}
        drops = np.mean([100 * (old[x] - new[x]) / whole[x] for x in by_task], axis=0)
        shares = [x[_drawn(result, len(x)), 0].mean(axis=1) for x in values.values()]
        low, high, most = np.quantile(drops, [0.025, 0.975, 0.95])
        least, largest = np.quantile(100 * np.mean(shares, axis=0), [0.025, 0.975])
        largest = max(largest, _without_event(0.025, sum(map(len, values.values()))))
        scored = sum(len(values[name]) for name in by_task)
        cost = float(np.mean([100 / whole[name] for name in by_task]))
        high, most = (
            max(end, cost * _without_event(chance, scored))
            for end, chance in ((high, 0.025), (most, 0.05))
        )
        return cls((float(low), float(high)), float(most), (float(least), float(largest)))


def _without_event(chance: float, rows: int) -> float:
    """Return the share in percent at which so many rows have no event with this chance."""
    return 100 * (1 - math.exp(math.log(chance) / rows))


def costs_of(*methods: str) -> Iterator[tuple[Result, str, str, Cost]]:
    """Yield set, method, label and cost of each size of these methods, or of all."""
    for result in results():
        for method in methods or dict.fromkeys(x["method"] for x in result.methods.values()):
            for label in result.of(method).values():
                if result.scored(label).values:
                    yield result, method, label, Cost.of(result, label)


def by_base() -> str:
    """Return a row for each set and size of hydraopt without prompts."""
    lines = []
    for result, _, label, cost in costs_of(METHOD):
        bounds = Bounds.of(result, label)
        lines.append(
            [
                f"{size_of(result.base)}, `{result.set}` ({counted(result, label)})",
                f"{100 * result.methods[label]['share']:.1f} %",
                f"{result.methods[label]['error']:.2f}",
                "{:+.1f} % [{:+.1f}, {:+.1f}]".format(cost.drop, *bounds.drop),
                f"{bounds.most:+.1f} %",
                "{:+.1f} % ({})".format(*cost.worst),
                "{:.1f} % [{:.1f}, {:.1f}]".format(cost.changed, *bounds.changed),
                f"{cost.kl[0]:.2g}",
            ]
        )
    head = [
        "base, set (tasks)",
        "of fp16",
        "error",
        "mean drop",
        "at most",
        "worst task",
        "answers changed",
        "KL",
    ]
    return table(head, lines) if lines else MISSING


def counted(result: Result, label: str) -> str:
    """Return the number of tasks, and that of those with a drop if some originals score nothing."""
    mine = result.scored(label)
    tasks, dropped = len(mine.values), len(mine.drops(label))
    return f"{tasks}" if tasks == dropped else f"{tasks}, drop of {dropped}"


def size_of(base: str) -> str:
    """Return the size in a base's name, as "1.5 B"."""
    found = _SIZE.search(base)
    return f"{found[1]} {found[2].upper()}" if found else base


def _millions(base: str) -> float:
    found = _SIZE.search(base)
    return float(found[1]) * (1000 if found[2] == "b" else 1) if found else 0.0


def every_size() -> Table:
    """Return the costs of all methods and sizes, with bounds for hydraopt's."""
    rows: list[list[object]] = []
    for result, method, label, cost in costs_of():
        mine, about = result.scored(label).values, result.methods[label]
        ends: list[object] = [""] * 5
        if method in (METHOD, PROMPTED):
            bounds = Bounds.of(result, label)
            ends = [f"{x:.3f}" for x in (*bounds.drop, bounds.most, *bounds.changed)]
        rows.append(
            [result.set, result.base, len(mine), sum(len(x[label]) for x in mine.values())]
            + [method, about["setting"], about["bytes"]]
            + [f"{100 * about['share']:.2f}", f"{about['error']:.4f}", f"{cost.drop:.3f}"]
            + [*ends[:3], f"{cost.worst[0]:.3f}", cost.worst[1], f"{cost.changed:.3f}", *ends[3:]]
            + [f"{x:.3g}" for x in cost.kl]
        )
    head = ["set", "base", "tasks", "rows", "method", "setting", "bytes", "of_fp16_pct", "error"]
    head += ["drop_pct", "drop_low", "drop_high", "drop_at_most", "worst_drop_pct", "worst_task"]
    return [*head, "changed_pct", "changed_low", "changed_high", "kl_mean", "kl_geometric"], rows


def every_task() -> Table:
    """Return score, changed answers and KL of each task of hydraopt's bundles."""
    rows: list[list[object]] = []
    for result, method, label, _ in costs_of(METHOD, PROMPTED):
        mine = result.scored(label)
        drops = mine.drops(label)
        for task, by in mine.values.items():
            total, (changed, kl) = _total(mine.metrics[task]), by[label].mean(axis=0)
            scores = [total(mine.numbers[task][x]) for x in (ORIGINAL, label)]
            rows.append(
                [result.set, task, mine.metrics[task], len(by[label])]
                + [method, mine.methods[label]["setting"]]
                + [f"{x:.2f}" for x in scores]
                + [f"{drops[task]:.2f}" if task in drops else ""]
                + [f"{100 * changed:.2f}", f"{kl:.3g}"]
            )
    head = ["set", "task", "metric", "rows", "method", "setting", "original", "score"]
    return [*head, "drop_pct", "changed_pct", "kl"], rows


def draw() -> None:
    """Draw changed answers and KL against size, a line for each whole set."""
    import matplotlib.pyplot as plt

    lines: dict[str, list[tuple[float, Cost, Bounds]]] = {}
    for result, _, label, cost in costs_of(METHOD):
        if result.is_whole:
            name = f"{size_of(result.base)}, {result.set}"
            share = 100 * result.methods[label]["share"]
            lines.setdefault(name, []).append((share, cost, Bounds.of(result, label)))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for number, (name, points) in enumerate(lines.items()):
        shares, costs, bounds = zip(*points, strict=True)
        style = {"color": f"C{number}", "marker": "o", "markersize": 4, "label": name}
        axes[0].plot(shares, [x.changed for x in costs], **style)
        low, high = ([x.changed[i] for x in bounds] for i in (0, 1))
        axes[0].fill_between(shares, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
        axes[1].plot(shares, [x.kl[0] for x in costs], **style)
    names = "answers changed, %", "KL to the originals, nats an answer"
    for axis, what in zip(axes, names, strict=True):
        size_axis(axis, (2, 3, 5, 10, 20, 30))
        axis.set_xlabel("bytes of the bundle, % of the adapters in fp16")
        axis.set_ylabel(what)
    axes[1].set_yscale("log")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(pages.PICTURES / "bases.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


SECTIONS = {"by base": by_base}
TABLES = {"same-rows.csv": every_size, "tasks.csv": every_task}
