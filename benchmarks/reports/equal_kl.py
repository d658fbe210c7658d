"""Bytes of rivals at the KL of hydraopt, task by task on the same rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.pages import Table
from benchmarks.quality.sets import METHOD
from benchmarks.reports.bdrate import frontier
from benchmarks.reports.same_rows import (
    LEAST,
    PROMPTED,
    Result,
    Values,
    costs_of,
    counted,
    picked,
    results,
    size_of,
)
from benchmarks.reports.tables import MISSING, table, wrapped

__all__ = ["SECTIONS", "TABLES", "averaged", "beyond", "factors", "interval", "interval_of_mean"]

Tasks = Mapping[str, Mapping[str, Values]]
"""By task and label, (rows, 2): whether an answer changes, and its KL."""
Cut = tuple[bool, bool]
_ROW_SAMPLES: Final = 100
_TASK_SAMPLES: Final = 10
"""Draws of tasks for each draw of rows."""
_IN_SHORT: Final = ("10%", "5%", "3%", "2%")
"""Sizes of README.md's note; its table is of the first."""
_WITH_PROMPTS: Final = ", prompts"
"""Ends the name of a method that was trained on prompts."""


def factors(
    methods: Mapping[str, Mapping[str, Any]],
    tasks: Tasks,
    rival: str,
    label: str,
    drawn: Values | None = None,
) -> list[float]:
    """Return the log of a rival's bytes over hydraopt's at the KL of one of its sizes, by task.

    The rival's curve is log bytes over log KL through its sizes, linear between them; beyond its
    ends it stays at the bytes of the end, which :func:`beyond` counts. drawn: rows to take.
    """
    return [x for x, _ in _factors(methods, tasks, rival, label, drawn)]


def beyond(
    methods: Mapping[str, Mapping[str, Any]], tasks: Tasks, rival: str, label: str
) -> tuple[int, int]:
    """Return the number of tasks whose factor is an upper bound, and a lower bound."""
    sides = [side for _, side in _factors(methods, tasks, rival, label)]
    return sides.count(1), sides.count(-1)


def _factors(
    methods: Mapping[str, Mapping[str, Any]],
    tasks: Tasks,
    rival: str,
    label: str,
    drawn: Values | None = None,
) -> list[tuple[float, int]]:
    """Return (log of the factor, 1 for an upper bound or -1 for a lower one) of each task."""
    found = []
    for by_label in tasks.values():
        if label not in by_label:
            continue
        kl = {}
        for name, values in by_label.items():
            kl[name] = max(float(values[picked(drawn, len(values)), 1].mean()), LEAST)
        mine = [x for x, about in methods.items() if about["method"] == rival and x in kl]
        curve = [(math.log(y), math.log(x)) for x, y in _frontier(methods, kl, mine)]
        wanted = math.log(kl[label])
        if curve:
            logs, sizes = zip(*curve, strict=True)
            log = float(np.interp(wanted, logs, sizes)) - math.log(methods[label]["share"])
            found.append((log, int(wanted > logs[-1]) - int(wanted < logs[0])))
    return found


def _frontier(
    methods: Mapping[str, Mapping[str, Any]], kl: Mapping[str, float], labels: Sequence[str]
) -> list[tuple[float, float]]:
    """(share of fp16, KL) of a method's sizes, the largest size first."""
    return frontier([(methods[x]["share"], kl[x]) for x in labels])[::-1]


def interval(
    methods: Mapping[str, Mapping[str, Any]], tasks: Tasks, rival: str, label: str
) -> tuple[float, float, float]:
    """Return the geometric mean of the factors and its 95 % interval.

    The interval is of a bootstrap over tasks and over rows, rows of one number in all tasks
    together: in several languages they are translations of each other.
    """
    whole, rng = factors(methods, tasks, rival, label), np.random.default_rng(0)
    most = max(len(values) for by in tasks.values() for values in by.values())
    means = []
    for _ in range(_ROW_SAMPLES):
        sampled = factors(methods, tasks, rival, label, rng.random(most))
        for _ in range(_TASK_SAMPLES if sampled else 0):
            means.append(float(np.mean(rng.choice(sampled, len(sampled)))))
    low, high = np.exp(np.quantile(means, [0.025, 0.975]))
    return math.exp(float(np.mean(whole))), float(low), float(high)


def averaged(
    tasks: Tasks, names: Sequence[str], drawn: Values | None = None
) -> dict[str, dict[str, Values]]:
    """Return some tasks as one row, the mean over them, for methods that all of them have."""
    labels = set.intersection(*({*by} for by in tasks.values()))
    mean = {}
    for label in labels:
        each = (tasks[x][label] for x in names)
        mean[label] = np.mean([[x[picked(drawn, len(x))].mean(axis=0)] for x in each], axis=0)
    return {"mean": mean}


def interval_of_mean(
    methods: Mapping[str, Mapping[str, Any]], tasks: Tasks, rival: str, label: str
) -> tuple[float, float, float]:
    """Return the factor at an equal mean KL and its 95 % interval, of the same bootstrap."""
    names, rng = list(tasks), np.random.default_rng(0)
    (whole,) = factors(methods, averaged(tasks, names), rival, label)
    most, found = max(len(values) for by in tasks.values() for values in by.values()), []
    for _ in range(_ROW_SAMPLES * _TASK_SAMPLES // 4):
        chosen = [names[i] for i in rng.integers(0, len(names), len(names))]
        found += factors(methods, averaged(tasks, chosen, rng.random(most)), rival, label)
    low, high = np.exp(np.quantile(found, [0.025, 0.975]))
    return math.exp(whole), float(low), float(high)


def pairs(methods: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the methods to compare: hydraopt with each rival that gets what it gets.

    Hydraopt with prompts is also compared with itself without.
    """
    names = list(dict.fromkeys(x["method"] for x in methods.values()))
    learn = [x for x in names if x.endswith(_WITH_PROMPTS)]
    free = [(METHOD, x) for x in names if x not in (METHOD, *learn)]
    rivals = [METHOD, *(x for x in learn if x != PROMPTED)]
    return [*free, *((PROMPTED, x) for x in rivals if PROMPTED in learn)]


def _cut(
    methods: Mapping[str, Mapping[str, Any]], drawn: Iterable[Tasks], rival: str, label: str
) -> Cut:
    """Return whether the low and the high end of an interval are those of the rival's sizes.

    They are if more than 2.5 % of the drawn factors lie beyond that end of its curve.
    """
    sides = [side for tasks in drawn for _, side in _factors(methods, tasks, rival, label)]
    return sides.count(1) > 0.025 * len(sides), sides.count(-1) > 0.025 * len(sides)


def _cell(bounds: tuple[int, int], found: tuple[float, float, float], cut: Cut) -> str:
    """Return a mean with its interval; without one if it is a bound."""
    more, less = bounds
    if (more and less) or (less and found[0] < 1):  # says nothing
        return "-"
    if more or less:
        return f"{'at most' if more else 'at least'} {found[0]:.2f}"
    below, above = ("<" if cut[0] else "", ">" if cut[1] else "")
    return f"{found[0]:.2f} [{below}{found[1]:.2f}, {above}{found[2]:.2f}]"


def _cells(result: Result, mine: str, rival: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the factors by size, of each task and at the mean KL."""
    methods, cells, means = result.methods, dict[str, str](), dict[str, str]()
    for size, label in result.of(mine).items():
        tasks = result.scored(label, *result.of(rival).values()).values
        if not tasks:
            continue
        names, rng = list(tasks), np.random.default_rng(1)
        most = max(len(values) for by in tasks.values() for values in by.values())
        rows = [rng.random(most) for _ in range(_ROW_SAMPLES)]
        each = ({x: averaged(tasks, [x], y)["mean"] for x in names} for y in rows)
        mean = (averaged(tasks, [str(x) for x in rng.choice(names, len(names))], y) for y in rows)
        means[size] = _cell(
            beyond(methods, averaged(tasks, names), rival, label),
            interval_of_mean(methods, tasks, rival, label),
            _cut(methods, mean, rival, label),
        )
        cells[size] = _cell(
            beyond(methods, tasks, rival, label),
            interval(methods, tasks, rival, label),
            _cut(methods, each, rival, label),
        )
    return cells, means


def at_equal_kl() -> str:
    """Return for each set and rival the factor of bytes at the KL of each size of hydraopt."""
    lines, sizes = [], dict[str, None]()
    for result in results():
        for mine, rival in pairs(result.methods):
            cells, means = _cells(result, mine, rival)
            sizes.update((x, None) for by in (cells, means) for x, y in by.items() if y != "-")
            named = f"{rival}, no prompts" if (mine, rival) == (PROMPTED, METHOD) else rival
            labels = [*result.of(mine).values(), *result.of(rival).values()]
            about = f"`{result.set}`, {len(result.scored(*labels).values)}", named
            lines += [(*about, "of each task", cells), (*about, "mean", means)]
    if not lines:
        return MISSING
    order = sorted(sizes, key=lambda x: -float(x.strip("%")) if x.endswith("%") else -100.0)
    head = ["set, tasks", "rival", "KL", *(f"at the KL of {x}" for x in order)]
    return table(head, [[*x, *(cells.get(y, "-") for y in order)] for *x, cells in lines])


def every_task() -> Table:
    """Return the factor of bytes of every task, with the word for a bound."""
    words = {0: "", 1: "at most", -1: "at least"}
    lines: list[list[object]] = []
    for result in results():
        for mine, rival in pairs(result.methods):
            for size, label in result.of(mine).items():
                tasks = result.scored(label, *result.of(rival).values()).values
                for task, by in tasks.items():
                    for log, side in _factors(result.methods, {task: by}, rival, label):
                        if side < 0 and log < 0:  # a lower bound that says nothing
                            continue
                        about = result.set, task, mine, size, rival, words[side]
                        lines.append([*about, f"{math.exp(log):.2f}"])
    head = ["set", "task", "of", "at_the_kl_of", "rival", "bound", "times_the_bytes"]
    return head, lines


def _ends() -> tuple[float, float] | None:
    """Return the least and the largest factor of all sets, rivals and sizes, without prompts.

    Factors are those at the KL of each task. A size at which one is an upper bound has none; a
    lower bound counts as it is.
    """
    found = []
    for result in (x for x in results() if not x.of(PROMPTED)):
        for mine, rival in pairs(result.methods):
            for size, label in result.of(mine).items():
                tasks = result.scored(label, *result.of(rival).values()).values
                if size in _IN_SHORT and not beyond(result.methods, tasks, rival, label)[0]:
                    logs = factors(result.methods, tasks, rival, label)
                    found += [math.exp(float(np.mean(logs)))] if logs else []
    return (min(found), max(found)) if found else None


def in_short() -> str:
    """Return a row for each set without prompts, at a tenth of the fp16 bytes."""
    lines = []
    for result, _, label, cost in costs_of(METHOD):
        if result.methods[label]["setting"] != _IN_SHORT[0] or result.of(PROMPTED):
            continue
        mine = result.scored(label).values
        lines.append(
            [
                f"{size_of(result.base)}, `{result.set}`",
                f"{counted(result, label)}, {sum(len(by[label]) for by in mine.values())}",
                "{:+.1f} % [{:+.1f}, {:+.1f}]".format(*cost.drop),
                "{:.1f} % [{:.1f}, {:.1f}]".format(*cost.changed),
            ]
        )
    if not lines:
        return MISSING
    head = ["base, set", "tasks, rows", "mean drop of the score [95 %]", "answers changed [95 %]"]
    text = "Drops are in percent of the originals' scores; negative is a gain."
    if ends := _ends():
        text += (
            " For the KL of bundles of 10 to 2 %, an SVD that is coded as well as we can takes "
            f"{ends[0]:.1f} to {ends[1]:.1f} times as many bytes, depending on set and size; "
            "sizes with only an upper bound are left out."
        )
    return f"{table(head, lines)}\n{wrapped(text)}"


SECTIONS = {"equal kl": at_equal_kl, "evidence in short": in_short}
TABLES = {"equal-kl-tasks.csv": every_task}
