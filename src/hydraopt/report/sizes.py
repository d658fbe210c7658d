"""Size against harm: the bundle as it is, what other sizes would cost, and what was scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from hydraopt.inspect.choices import Choices
from hydraopt.report.evidence import Evidence
from hydraopt.report.model import SizeRow, TaskView

__all__ = ["size_rows"]

_GUESSES: Final = 25
"""Sizes that the slider stops at, between the points that were planned."""

Values = dict[str, tuple[float, float, str]]
Columns = dict[str, dict[str, float | None]]
"""By measure and task, what is known."""


def size_rows(
    name: str,
    size: int,
    fp16_bytes: int,
    tasks: Sequence[TaskView],
    choices: Choices | None,
    evidence: Evidence,
) -> tuple[SizeRow, ...]:
    """All sizes, the smallest first. name, size: of the bundle itself."""
    scored = sum(x.judged is not None for x in tasks)
    label = f"{name}, scored on {scored} of {len(tasks)} tasks" if scored else name
    rows = [SizeRow("chosen", label, size, _chosen(tasks)), *evidence.others]
    if choices is not None and len(choices.points) > 1:
        rows += _guessed(choices, fp16_bytes, math.log(size), _columns(tasks))
    return tuple(sorted(rows, key=lambda row: row.size))


def _chosen(tasks: Sequence[TaskView]) -> Values:
    """What is known of the bundle itself, by measure."""
    columns = _columns(tasks)
    return {key: value for key, column in columns.items() if (value := _mean_and_worst(column))}


def _columns(tasks: Sequence[TaskView]) -> Columns:
    return {
        "error": {x.name: x.error for x in tasks},
        "changed": {x.name: x.harm for x in tasks},
        "likely": {x.name: x.likely for x in tasks},
        "kl": {x.name: x.kl for x in tasks},
        "drop": {
            x.name: None if x.judged is None or x.judged.difference is None else
            -x.judged.difference
            for x in tasks
        },
    }  # fmt: skip


def _mean_and_worst(column: Mapping[str, float | None]) -> tuple[float, float, str] | None:
    known = {name: value for name, value in column.items() if value is not None}
    if not known:
        return None
    worst = max(known, key=lambda name: known[name])
    return sum(known.values()) / len(known), known[worst], worst


def _guessed(choices: Choices, fp16_bytes: int, here: float, own: Columns) -> list[SizeRow]:
    """Sizes at even steps of the logarithm, every task's numbers between its planned points.

    They pass through what is known of the bundle: a task's guesses are all off by the factor that
    the guess of its own size is off by; of shares the odds are. here: the logarithm of the bundle's
    size. own: its numbers.
    """
    logs = [math.log(point.size) for point in reversed(choices.points)]
    here = min(here, logs[-1])
    points = list(reversed(choices.points))
    step = (logs[-1] - logs[0]) / (_GUESSES - 1)
    rows = []
    for i in range(_GUESSES):
        at = logs[0] + i * step
        columns: Columns = {}
        for key, values in (
            ("error", [point.errors for point in points]),
            ("likely", [point.likely for point in points]),
            ("kl", [point.kl for point in points]),
        ):
            columns[key] = {
                name: (_share_held_to if key == "likely" else _held_to)(
                    own[key].get(name),
                    _between(here, logs, [row[t] for row in values]),
                    _between(at, logs, [row[t] for row in values]),
                )
                for t, name in enumerate(choices.tasks)
            }
        made = {key: value for key, column in columns.items() if (value := _mean_and_worst(column))}
        size = round(math.exp(at))
        share = f"{100 * size / fp16_bytes:.2f} % of fp16" if fp16_bytes else ""
        rows.append(SizeRow("guessed", share, size, made))
    return rows


def _held_to(own: float | None, guess: float | None, value: float | None) -> float | None:
    """A guess, corrected as the guess of what is known would be."""
    if value is None or not own or not guess:
        return value
    return value * own / guess


def _share_held_to(own: float | None, guess: float | None, value: float | None) -> float | None:
    """The same of shares, by their odds: none is above 1."""
    if value is None or not own or not guess:
        return value
    if value >= 1 or own >= 1 or guess >= 1:
        return min(1.0, value if value >= 1 else value * own / guess)
    factor = own * (1 - guess) / (guess * (1 - own))
    return value * factor / (1 - value + value * factor)


def _between(at: float, logs: Sequence[float], values: Sequence[float | None]) -> float | None:
    """A value between two points, its logarithm linear in that of the size."""
    for i in range(len(logs) - 1):
        left, right = values[i], values[i + 1]
        if at <= logs[i + 1] + 1e-9 and left is not None and right is not None:
            width = logs[i + 1] - logs[i]
            share = min(max((at - logs[i]) / width, 0.0), 1.0) if width else 0.0
            low, high = (math.log(max(x, 1e-9)) for x in (left, right))
            return math.exp(low + share * (high - low))
    return None
