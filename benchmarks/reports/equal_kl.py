"""Bytes of methods with many sizes over those of hydraopt, at equal KL; and README's table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.pages import Table
from benchmarks.reports.factors import Compared, geometric_mean, has_curve, says_nothing
from benchmarks.reports.prompted import gains
from benchmarks.reports.same_rows import (
    PROMPTED,
    Bounds,
    costs_of,
    counted,
    results,
    size_of,
)
from benchmarks.reports.tables import MISSING, table, wrapped
from benchmarks.rivals.base import METHOD, WITH_PROMPTS

__all__ = ["SECTIONS", "TABLES", "pairs"]

_IN_SHORT: Final = ("10%", "5%", "3%", "2%")
"""Sizes of README.md's note; its table is of the first."""


def _names(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(x["method"] for x in methods.values()))


def pairs(methods: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the methods to compare: hydraopt with each rival that gets what it gets.

    Rivals without a curve are left to ``benchmarks.reports.rivals``.
    """
    names = [x for x in _names(methods) if has_curve(x)]
    learn = [x for x in names if x.endswith(WITH_PROMPTS)]
    free = [(METHOD, x) for x in names if x not in (METHOD, *learn)]
    return [*free, *((PROMPTED, x) for x in learn if PROMPTED in learn and x != PROMPTED)]


def at_equal_kl() -> str:
    """Return for each set and rival the factor of bytes at the KL of each size of hydraopt.

    A size at which all are bounds has no column.
    """
    lines, sizes = [], dict[str, None]()
    for result in results():
        for mine, rival in pairs(result.methods):
            cells, means = dict[str, str](), dict[str, str]()
            for size, label in result.of(mine).items():
                if compared := Compared.of(result, label, rival):
                    cells[size], means[size] = compared.of_each_task(), compared.of_mean()
            sizes.update(
                (x, None) for by in (cells, means) for x, y in by.items() if y[0].isdigit()
            )
            labels = [*result.of(mine).values(), *result.of(rival).values()]
            about = f"`{result.set}`, {len(result.scored(*labels).values)}", rival
            lines += [(*about, "of each task", cells), (*about, "mean", means)]
    if not lines:
        return MISSING
    order = sorted(sizes, key=lambda x: -float(x.strip("%")) if x.endswith("%") else -100.0)
    head = ["set, tasks", "rival", "KL", *(f"at the KL of {x}" for x in order)]
    return table(head, [[*x, *(cells.get(y, "-") for y in order)] for *x, cells in lines])


def every_task() -> Table:
    """Return the factor of bytes of every task, with the word for a bound.

    Hydraopt with prompts is also compared with itself without.
    """
    words = {0: "", 1: "at most", -1: "at least"}
    lines: list[list[object]] = []
    for result in results():
        for mine, rival in (*pairs(result.methods), (PROMPTED, METHOD)):
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


def _factors(mine: str, sizes: Sequence[str]) -> dict[str, list[float]]:
    """Return by whole set the rival's bytes over hydraopt's at the KL of each task.

    mine: hydraopt's method, with prompts or without; rivals are those that get the same.
    sizes: those of hydraopt to compare at.

    A size at which one is an upper bound has none, nor has one whose lower bounds say nothing;
    another lower bound counts as it is.
    """
    found: dict[str, list[float]] = {}
    for result in (x for x in results() if x.is_whole):
        for rival in [x for of, x in pairs(result.methods) if of == mine]:
            for size, label in result.of(mine).items():
                compared = Compared.of(result, label, rival)
                each = compared.factors() if compared and size in sizes else []
                if each and not (any(x.side > 0 for x in each) or says_nothing(each)):
                    found.setdefault(result.set, []).append(geometric_mean(each))
    return found


def _range(factors: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(f"{x(factors):.1f}" for x in (min, max)))


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
    if factors := [x for some in _factors(METHOD, _IN_SHORT).values() for x in some]:
        text += (
            " At the same KL (how far the probabilities of the next token move) as bundles of 10 "
            "to 2 %, the strongest rival that we know, an SVD with entropy coding, takes "
            f"{_range(factors)} times the bytes ([all rivals](docs/evidence/rivals.md))."
        )
    return f"{table(head, lines)}\n{wrapped(text + _with_prompts())}"


def _with_prompts() -> str:
    """Return a sentence on the size and number of prompts that most whole sets have.

    Of sizes that as many sets have, it is the smallest, where prompts matter most.
    """
    shares: dict[tuple[int, str], list[str]] = {}
    for result in results():
        for gain in gains(result) if result.is_whole else ():
            changed = f"{gain.cost.changed:.1f} instead of {gain.without.changed:.1f} %"
            about = result.methods[gain.label]["prompts"], gain.size
            shares.setdefault(about, []).append(f"{changed} (`{result.set}`)")
    if not shares:
        return ""
    (prompts, size), some = max(
        shares.items(), key=lambda x: (len(x[1]), -float(x[0][1].rstrip("%")))
    )
    text = (
        f" At {size.replace('%', ' %')}, {_joined(some)} of the answers change "
        f"[with {prompts} prompts per task](docs/howto/harm.md)"
    )
    if by_set := _factors(PROMPTED, [size]):
        times = [f"{_range(x)} (`{name}`)" for name, x in by_set.items()]
        text += f", and the rival with the same prompts takes {_joined(times)} times the bytes"
    return f"{text}."


def _joined(words: Sequence[str]) -> str:
    *before, last = words
    return f"{', '.join(before)} and {last}" if before else last


SECTIONS = {"equal kl": at_equal_kl, "evidence in short": in_short}
TABLES = {"equal-kl-tasks.csv": every_task}
