"""What prompts gain: bundles with refits beside those without, on the same tasks and rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.reports.factors import Compared
from benchmarks.reports.same_rows import PROMPTED, Bounds, Cost, Result, counted, results, size_of
from benchmarks.reports.tables import MISSING, table
from benchmarks.rivals.base import METHOD

__all__ = ["SECTIONS", "Gain", "by_application", "gains", "with_prompts"]


@dataclass(frozen=True)
class Gain:
    """One size with prompts, and the same size without.

    label: that of the size with prompts. result: of the tasks that both were measured on.
    """

    size: str
    label: str
    result: Result
    without: Cost

    @property
    def cost(self) -> Cost:
        """Return the cost with prompts."""
        return Cost.of(self.result, self.label)


def gains(result: Result) -> Iterator[Gain]:
    """Yield the gain of each size of a set that was measured with prompts and without."""
    free = result.of(METHOD)
    for size, label in result.of(PROMPTED).items():
        both = result.scored(label, free.get(size, ""))
        if both.values:
            yield Gain(size, label, both, Cost.of(both, free[size]))


def with_prompts() -> str:
    """Return a row for each set and size with prompts, most cells from no prompts to prompts."""
    lines = [_line(gain) for result in results() for gain in gains(result)]
    head = ["base, set (tasks)", "of fp16", "answers changed", "KL", "mean drop", "at most"]
    head += ["worst task", "bytes without, at equal mean KL", "at the KL of each task"]
    return table(head, lines) if lines else MISSING


def _line(gain: Gain) -> list[str]:
    old, new, bounds = gain.without, gain.cost, Bounds.of(gain.result, gain.label)
    factor = Compared.of(gain.result, gain.label, METHOD)
    assert factor, "both were measured"
    return [
        f"{size_of(gain.result.base)}, `{gain.result.set}` ({counted(gain.result, gain.label)})",
        f"{100 * gain.result.methods[gain.label]['share']:.1f} %",
        "{:.1f} → {:.1f} % [{:.1f}, {:.1f}]".format(old.changed, new.changed, *bounds.changed),
        f"{old.kl[0]:.2g} → {new.kl[0]:.2g}",
        "{:+.1f} → {:+.1f} % [{:+.1f}, {:+.1f}]".format(old.drop, new.drop, *bounds.drop),
        f"{bounds.most:+.1f} %",
        "{:+.1f} % ({})".format(*new.worst),
        factor.of_mean(),
        factor.of_each_task(),
    ]


def by_application() -> str:
    """Return a row for each application, size and set, where one has tasks of several languages."""
    lines = []
    for result in results():
        for gain in gains(result):
            groups = _applications(gain.result)
            if max(map(len, groups.values())) > 1:
                lines += [_group(gain, name, tasks) for name, tasks in groups.items()]
    head = ["set", "of fp16", "application (tasks)", "answers changed", "KL"]
    head += ["tasks with a larger KL", "mean drop"]
    return table(head, lines) if lines else MISSING


def _applications(result: Result) -> dict[str, list[str]]:
    """Return the tasks by application: their names without the language."""
    groups = dict[str, list[str]]()
    for task in result.values:
        groups.setdefault(task.rpartition("-")[0] or task, []).append(task)
    return groups


def _group(gain: Gain, name: str, tasks: list[str]) -> list[str]:
    part = gain.result.only(tasks)
    free = part.of(METHOD)[gain.size]
    old, new = Cost.of(part, free), Cost.of(part, gain.label)
    worse = sum(by[gain.label][:, 1].mean() > by[free][:, 1].mean() for by in part.values.values())
    return [
        f"`{part.set}`",
        f"{100 * part.methods[gain.label]['share']:.1f} %",
        f"{name} ({len(tasks)})",
        f"{old.changed:.1f} → {new.changed:.1f} %",
        f"{old.kl[0]:.2g} → {new.kl[0]:.2g}",
        f"{worse}",
        f"{old.drop:+.1f} → {new.drop:+.1f} %",
    ]


SECTIONS = {"with prompts": with_prompts, "by application": by_application}
