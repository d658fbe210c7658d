"""Print the probes of a result, and make its notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from hydraopt.cli.common import say, show_table
from hydraopt.notes import Note
from hydraopt.values import counted

if TYPE_CHECKING:
    from hydraopt.evaluate.results import Evaluation, ProbesAsked, TaskResult
    from hydraopt.probes.chance import Share
    from hydraopt.probes.measures import ChoiceChange, GroupMeasures

__all__ = ["result_notes", "show_people"]

_ALL: Final = "all"
_CLEAR: Final = 0.05
_MOST_ROWS: Final = 200
_CORRECTION: Final = (
    "chance level is 50 % for a stereotype; p is corrected by Holm, over all changes of one bundle "
    "on one adapter, and over all its preferences and accuracies"
)


def result_notes(result: Evaluation) -> Iterator[Note]:
    """Yield notes on adapters without scores, and on rows that are left out."""
    left_out = Counter[str]()
    for task in result.tasks:
        if task.skipped is not None:
            text = f"{task.adapter} is not scored: {task.skipped}"
            yield Note("not_scored", text, task.adapter)
        left_out.update(task.left_out_why or {})
    for why, count in left_out.items():
        yield Note("rows_left_out", f"{counted(count, 'row')} left out: {why}")


def show_people(result: Evaluation) -> None:
    """Show changes for groups of people: each probe as a whole, and groups with a clear change."""
    if result.probes is not None:
        _show_probes(result.probes, result.tasks)
    for task in result.tasks:
        if task.probes is not None and not isinstance(task.probes, Mapping):
            say(f"{task.adapter}: no probes: {task.probes.skipped}")


def _show_probes(probes: ProbesAsked, tasks: Sequence[TaskResult]) -> None:
    rows = [
        ["(base)", "base", *_cells(probe, _ALL, groups[_ALL])]
        for probe, groups in probes.base.items()
    ]
    rows += list(_probe_rows(tasks))
    if rows:
        _table(
            "probes: choices that follow a stereotype, % [95 %] of choices that take a side; right "
            "answers, %; flips against the original (towards a stereotype, away from one)",
            ["adapter", "from", "probe", "items", "stereotype", "right", "flips", "p (Holm)",
             "flips to"],
            rows,
        )  # fmt: skip
        say(_CORRECTION)
    if probes.skipped is not None:
        say(f"no probes: {probes.skipped}")


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    show_table(title, columns, rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        say(f"{len(rows) - _MOST_ROWS:,} further rows are in --json and -o")


def _probe_rows(tasks: Sequence[TaskResult]) -> Iterator[list[str]]:
    for task in tasks:
        probes = task.probes if isinstance(task.probes, Mapping) else {}
        for probe, by_set in probes.items():
            for label, groups in by_set.items():
                for group, row in groups.items():
                    clear = row.change is not None and row.change.p_holm < _CLEAR
                    if group == _ALL or clear:
                        yield [task.adapter, _short(label), *_cells(probe, group, row)]


def _direction(change: ChoiceChange) -> str:
    """Return the flips to each of two people, if a probe is about two."""
    to = change.people.to if change.people is not None else {}
    return ", ".join(f"{count} {who}" for who, count in to.items()) or "-"


def _cells(probe: str, group: str, row: GroupMeasures) -> list[str]:
    change = row.change
    judged = [x for x in (row.ambiguous, row.disambiguated) if x is not None]
    right = sum(x.accuracy.right for x in judged)
    return [
        probe if group == _ALL else f"{probe}, {group}",
        f"{row.items:,}",
        _interval(row.preference),
        f"{100 * right / row.items:.0f}" if judged else "-",
        f"{change.flips:,} ({change.towards:,}, {change.away:,})" if change else "-",
        f"{change.p_holm:.3f}" if change else "-",
        _direction(change) if change else "-",
    ]


def _interval(share: Share) -> str:
    return f"{share.pct:.0f} [{share.low:.0f}, {share.high:.0f}]"


def _short(label: str) -> str:
    return label.removesuffix(".hydra.safetensors")
