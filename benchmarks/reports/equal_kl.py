"""Bytes of rivals and of hydraopt at equal KL, task by task on the same rows."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.pages import Table
from benchmarks.quality.sets import pinned
from benchmarks.reports.same_rows import (
    LEAST,
    PROMPTED,
    Bounds,
    Cost,
    Result,
    Values,
    costs_of,
    counted,
    picked,
    results,
    size_of,
)
from benchmarks.reports.tables import MISSING, table, wrapped
from benchmarks.rivals.base import METHOD, WITH_PROMPTS

__all__ = ["SECTIONS", "TABLES", "Compared", "Factor", "pairs"]

_ROW_SAMPLES: Final = 100
_TASK_SAMPLES: Final = 10
"""Draws of tasks for each draw of rows."""
_IN_SHORT: Final = ("10%", "5%", "3%", "2%")
"""Sizes of README.md's note; its table is of the first."""
_MANY_SIZES: Final = (METHOD, "coded svd")
"""Start of the names of methods that have a curve of their own."""
_MOST: Final = 50.0
"""Percent of changed answers from which a row is not in a table; same-rows.csv has it."""


class Factor(NamedTuple):
    """Log of the bytes of a method over those of one size of another, at the KL of that size.

    side: 1 for an upper bound, of a KL above those of all sizes of the method; -1 for a lower one.
    """

    log: float
    side: int

    def inverse(self) -> Factor:
        """Return the bytes of that size over the method's."""
        return Factor(-self.log, -self.side)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return those of some points (bytes, KL) with less KL than all smaller ones, by bytes."""
    kept: list[tuple[float, float]] = []
    for size, kl in sorted(points):
        if not kept or kl < kept[-1][1]:
            kept.append((size, kl))
    return kept


def _size_at(curve: Sequence[tuple[float, float]], kl: float) -> tuple[float, int]:
    """Return the bytes at a KL, and the side of :class:`Factor`. curve: as of :func:`frontier`."""
    (least, worst), (most, best) = curve[0], curve[-1]
    if not best < kl < worst:
        return (least, int(kl > worst)) if kl >= worst else (most, -int(kl < best))
    (small, high), (large, low) = next(x for x in itertools.pairwise(curve) if kl >= x[1][1])
    way = math.log(high / kl) / math.log(high / low)
    return small * math.exp(way * math.log(large / small)), 0


@dataclass(frozen=True)
class Compared:
    """One size of a method and all sizes of another, on the tasks that all were measured on.

    share, shares (S,): of the fp16 bytes, of the size and of the other method's sizes.
    kl: by task, (rows, 1 + S), that of the size first.
    """

    share: float
    shares: Sequence[float]
    kl: Mapping[str, Values]

    @classmethod
    def of(cls, result: Result, label: str, other: str) -> Compared | None:
        """Return None if there is no such task."""
        theirs = [*result.of(other).values()]
        share, *shares = (result.methods[x]["share"] for x in (label, *theirs))
        tasks = result.scored(label, *theirs).values if theirs else {}
        kl = {
            name: np.stack([by[x][:, 1] for x in (label, *theirs)], axis=1)
            for name, by in tasks.items()
        }
        return cls(share, shares, kl) if kl else None

    @property
    def rows(self) -> int:
        """Number of rows of the task that has most."""
        return max(map(len, self.kl.values()))

    @functools.cached_property
    def _stacks(self) -> list[tuple[list[int], Values]]:
        """The tasks of each number of rows: their places among all, and (tasks, rows, 1 + S)."""
        by_rows: dict[int, list[int]] = {}
        every = [*self.kl.values()]
        for place, kl in enumerate(every):
            by_rows.setdefault(len(kl), []).append(place)
        return [(places, np.stack([every[x] for x in places])) for places in by_rows.values()]

    def means(self, drawn: Values | None = None) -> Values:
        """Return the mean KL of each task, (tasks, 1 + S). drawn: rows to take, as of picked."""
        found = np.empty((len(self.kl), 1 + len(self.shares)))
        for places, kl in self._stacks:
            found[places] = kl[:, picked(drawn, kl.shape[1])].mean(axis=1)
        return found

    def factor(self, means: Values) -> Factor:
        """Return the factor of a task, or of a mean over tasks, from its KL, (1 + S,).

        The other method's curve is log bytes over log KL through its sizes, linear between them;
        beyond its ends it stays at the bytes of the end.
        """
        wanted, *theirs = (max(x, LEAST) for x in means.tolist())
        size, side = _size_at(frontier([*zip(self.shares, theirs, strict=True)]), wanted)
        return Factor(math.log(size / self.share), side)

    def factors(self, drawn: Values | None = None) -> list[Factor]:
        """Return the factor of each task."""
        return [self.factor(x) for x in self.means(drawn)]

    def of_each_task(self) -> str:
        """Return the geometric mean of the tasks' factors, with its 95 % interval or as a bound.

        The interval is of a bootstrap over tasks and over rows, rows of one number in all tasks
        together: in several languages they are translations of each other.
        """
        whole, rng = self.factors(), np.random.default_rng(0)
        means, drawn = [], list[Factor]()
        for _ in range(_ROW_SAMPLES):
            sampled = self.factors(rng.random(self.rows))
            drawn += sampled
            logs = [x.log for x in sampled]
            means += [float(np.mean(rng.choice(logs, len(logs)))) for _ in range(_TASK_SAMPLES)]
        return _cell(whole, means, drawn)

    def of_mean(self) -> str:
        """Return the factor at an equal mean KL of all tasks, with the same interval or bound."""
        whole, rng, drawn = self.factor(self.means().mean(axis=0)), np.random.default_rng(0), []
        for _ in range(_ROW_SAMPLES * _TASK_SAMPLES // 4):
            chosen = rng.integers(0, len(self.kl), len(self.kl))
            means = self.means(rng.random(self.rows))[chosen].mean(axis=0)
            drawn.append(self.factor(means))
        return _cell([whole], [x.log for x in drawn], drawn)


def _cell(whole: Sequence[Factor], logs: Sequence[float], drawn: Sequence[Factor]) -> str:
    """Return the geometric mean of some factors, with an interval unless one is a bound.

    logs: drawn logs of the mean. drawn: drawn factors; an end of the interval is that of the
    rival's sizes if more than 2.5 % of them lie beyond that end of its curve.
    """
    sides = [x.side for x in whole]
    mean = math.exp(float(np.mean([x.log for x in whole])))
    if -1 in sides and (1 in sides or mean < 1):  # says nothing
        return "-"
    if any(sides):
        return f"{'at most' if 1 in sides else 'at least'} {mean:.2f}"
    low, high = np.exp(np.quantile(logs, [0.025, 0.975]))
    below, above = (sum(x.side == y for x in drawn) > 0.025 * len(drawn) for y in (1, -1))
    return f"{mean:.2f} [{'<' if below else ''}{low:.2f}, {'>' if above else ''}{high:.2f}]"


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
    return _cell(whole, logs[drawn].mean(axis=1), [])


def _names(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(x["method"] for x in methods.values()))


def _has_few_sizes(method: str) -> bool:
    return not method.startswith(_MANY_SIZES)


def pairs(methods: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the methods to compare: hydraopt with each rival that gets what it gets.

    Hydraopt with prompts is also compared with itself without. Rivals with few sizes are left to
    :func:`of_rivals`.
    """
    names = [x for x in _names(methods) if not _has_few_sizes(x)]
    learn = [x for x in names if x.endswith(WITH_PROMPTS)]
    free = [(METHOD, x) for x in names if x not in (METHOD, *learn)]
    rivals = [METHOD, *(x for x in learn if x != PROMPTED)]
    return [*free, *((PROMPTED, x) for x in rivals if PROMPTED in learn)]


def at_equal_kl() -> str:
    """Return for each set and rival the factor of bytes at the KL of each size of hydraopt."""
    lines, sizes = [], dict[str, None]()
    for result in results():
        for mine, rival in pairs(result.methods):
            cells, means = dict[str, str](), dict[str, str]()
            for size, label in result.of(mine).items():
                if compared := Compared.of(result, label, rival):
                    cells[size], means[size] = compared.of_each_task(), compared.of_mean()
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


def of_rivals() -> str:
    """Return for each size of the other rivals its bytes over hydraopt's at its KL, by set.

    Its share of the fp16 bytes and its changed answers are those of the first set that has it. Rows
    that change most answers there are left out.
    """
    lines: dict[tuple[str, str], dict[str, str]] = {}
    sets = dict[str, None]()
    for result, method, label, cost in costs_of():
        if not (result.is_whole and _has_few_sizes(method)):
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


def every_task() -> Table:
    """Return the factor of bytes of every task, with the word for a bound."""
    words = {0: "", 1: "at most", -1: "at least"}
    lines: list[list[object]] = []
    for result in results():
        for mine, rival in pairs(result.methods):
            for size, label in result.of(mine).items():
                compared = Compared.of(result, label, rival)
                if compared is None:
                    continue
                for task, (log, side) in zip(compared.kl, compared.factors(), strict=True):
                    if side < 0 and log < 0:  # a lower bound that says nothing
                        continue
                    about = result.set, task, mine, size, rival, words[side]
                    lines.append([*about, f"{math.exp(log):.2f}"])
    head = ["set", "task", "of", "at_the_kl_of", "rival", "bound", "times_the_bytes"]
    return head, lines


def _ends() -> tuple[float, float] | None:
    """Return the least and the largest factor of all whole sets, rivals and sizes, without prompts.

    Factors are those at the KL of each task. A size at which one is an upper bound has none; a
    lower bound counts as it is.
    """
    found = []
    for result in (x for x in results() if x.is_whole):
        for mine, rival in (x for x in pairs(result.methods) if x[0] == METHOD):
            for size, label in result.of(mine).items():
                compared = Compared.of(result, label, rival)
                each = compared.factors() if compared and size in _IN_SHORT else []
                if each and not any(x.side > 0 for x in each):
                    found.append(math.exp(float(np.mean([x.log for x in each]))))
    return (min(found), max(found)) if found else None


def in_short() -> str:
    """Return a row for each whole set, at a tenth of the fp16 bytes."""
    lines = []
    for result, _, label, cost in costs_of(METHOD):
        if result.methods[label]["setting"] != _IN_SHORT[0] or not result.is_whole:
            continue
        mine, bounds = result.scored(label).values, Bounds.of(result, label)
        lines.append(
            [
                f"{size_of(result.base)}, `{result.set}`",
                f"{counted(result, label)}, {sum(len(by[label]) for by in mine.values())}",
                "{:+.1f} % [{:+.1f}, {:+.1f}]".format(cost.drop, *bounds.drop),
                "{:.1f} % [{:.1f}, {:.1f}]".format(cost.changed, *bounds.changed),
            ]
        )
    if not lines:
        return MISSING
    head = ["base, set", "tasks, rows", "mean drop of the score [95 %]", "answers changed [95 %]"]
    text = "Drops are in percent of the originals' scores; negative is a gain."
    if ends := _ends():
        text += (
            " At the KL of bundles of 10 to 2 %, the best coded SVD that we could write takes "
            f"{ends[0]:.1f} to {ends[1]:.1f} times as many bytes, depending on set and size; "
            "lower bounds count as they are, sizes with only an upper bound are left out."
        )
    text += "".join(map(_with_prompts, results()))
    return f"{table(head, lines)}\n{wrapped(text)}"


def _with_prompts(result: Result) -> str:
    """Return a sentence for each size of a whole set with prompts."""
    free, said = result.of(METHOD), ""
    for size, label in result.of(PROMPTED).items() if result.is_whole else ():
        both = result.scored(label, free.get(size, ""))
        if not both.values:
            continue
        less, more = (Cost.of(both, x).changed for x in (label, free[size]))
        said += (
            f" [With {result.methods[label]['prompts']} prompts per task](docs/howto/harm.md), the "
            f"set on {size_of(result.base)} at {size.replace('%', ' %')} changes {less:.1f} % of "
            f"the answers instead of {more:.1f} %."
        )
    return said


SECTIONS = {"equal kl": at_equal_kl, "rivals": of_rivals, "evidence in short": in_short}
TABLES = {"equal-kl-tasks.csv": every_task}
