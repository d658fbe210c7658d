"""A judge that has no base model: it looks up the curve that a bundle keeps of each task."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hydraopt.bundle.harm import Harm
from hydraopt.bundle.spec import Manifest, TaskEntry
from hydraopt.harm.curves import LEAST_HARM, rising_line
from hydraopt.harm.solve import solve_by_harm
from hydraopt.linalg.shapes import Array, Factors
from hydraopt.merging.budget import HarmLimit, Size
from hydraopt.merging.look import HarmJudge, HarmSolution, MeasuredHarm
from hydraopt.merging.outcome import Job
from hydraopt.merging.solving import Options

__all__ = ["HarmRange", "StoredCurves", "tells_later"]

_ANSWERS: Final = 24
"""Number of answers assumed for a curve whose task no longer states it."""
_ROUNDED: Final = 0.05
"""Tolerance in log error and log KL: half a step of the manifest's rounding.
Steps are 4.4 % of an error and 9 % of a KL."""
_NEAR: Final = 2 * _ROUNDED
"""Tolerance in log error between a task's error and the one at which the curve has its harm.
A curve keeps one of several points within a step."""
_LARGEST: Final = 1.0
"""Largest error of a point; a manifest stores larger errors as this one."""
_LOOKS: Final = 400
"""Number of errors at which a curve is evaluated."""


class StoredCurves(HarmJudge):
    """Harm by the relative error against the original, from the curves in a manifest.

    A task's errors against what the bundle holds add to those that the bundle has: they are
    independent noise, so squares add. A refit has a larger error than the encoder would make for
    the same harm, and counts with that: what it moved is no noise. A task of fewer than two points
    has no curve. How sure the original is of its answers is not kept, so each that changes counts
    as lost.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._tasks = {x.name: x for x in manifest.tasks if len(x.curve) > 1}

    def tasks(self) -> frozenset[str]:
        """Return the names of the tasks that have a curve."""
        return frozenset(self._tasks)

    def measure(
        self,
        task: str,
        coded: Callable[[], Mapping[str, Factors]],
        error: float,
        apart: bool = False,
    ) -> MeasuredHarm:
        """Return the harm that the curve predicts.

        error: error against what the bundle holds. Beyond the curve's largest error, where nothing
            was measured, every answer is assumed to change.
        """
        entry = self._tasks[task]
        log = _log(math.hypot(error, _start(entry)[0]))
        lines = (_line(entry, key) for key in ("likely", "kl"))
        share, kl = (math.exp(float(line(np.array([log]))[0])) for line in lines)
        share = min(share, 1.0) if log <= _log(entry.curve[-1].error) + _ROUNDED else 1.0
        answers = _answers(entry)
        return MeasuredHarm(Harm(round(share * answers), answers, share, kl, True), 0.0, 0.0, share)

    def solve(
        self,
        job: Job,
        aim: Size | HarmLimit,
        options: Options,
        useful: Mapping[str, float] | None = None,
    ) -> HarmSolution:
        """Search by the stored curves. useful: bytes beyond which more are of no use, by task."""
        return solve_by_harm(job, aim, options, self, useful)

    def between(self, task: str, error: float) -> HarmRange | None:
        """Return the harm at an error against the original, between two points of the curve.

        Returns None outside the errors at which harm was measured.
        """
        points = self._tasks[task].curve
        log, logs = _log(error), [_log(x.error) for x in points]
        if not logs[0] - _ROUNDED <= log <= logs[-1] + _ROUNDED:
            return None
        right = min(max(bisect.bisect_left(logs, log), 1), len(logs) - 1)
        share = (log - logs[right - 1]) / (logs[right] - logs[right - 1])
        share = min(max(share, 0.0), 1.0)
        sides = points[right - 1], points[right]
        likely, kl = ([getattr(x, key) for x in sides] for key in ("likely", "kl"))
        expected = _part_way(likely, share)
        deviation = math.sqrt(expected[1] * (1 - expected[1]) / _answers(self._tasks[task]))
        return HarmRange(expected, _part_way(kl, share), deviation)


@dataclass(frozen=True)
class HarmRange:
    """Harm that was not itself measured, as (low, value, high).

    The values are the likely share of answers that change, and KL in nats an answer. Low and high
    were measured, at the next smaller and the next larger error.
    likely_error: standard error of the share, from its number of answers.
    """

    likely: tuple[float, float, float]
    kl: tuple[float, float, float]
    likely_error: float


def _part_way(values: Sequence[float], share: float) -> tuple[float, float, float]:
    """Return (low, value, high), the value ``share`` of the way between two.

    Harm is a power of the error, but a power says nothing of what starts at zero.
    """
    low, high = sorted(values)
    if low > 0:
        value = math.exp((1 - share) * math.log(values[0]) + share * math.log(values[1]))
    else:
        value = (1 - share) * values[0] + share * values[1]
    return low, min(max(value, low), high), high


def tells_later(task: TaskEntry) -> bool:
    """Return whether a task's curve remains valid once its harm is no longer known.

    It does not for a refitted task, whose position on the curve is known from its harm alone.
    """
    return len(task.curve) < 2 or not _start(task)[1]


def _answers(task: TaskEntry) -> int:
    """Return the number of answers behind a task's curve."""
    return task.harm.answers if task.harm else _ANSWERS


def _line(task: TaskEntry, key: str) -> Callable[[Array], Array]:
    """Return the logarithm of the likely share or of KL as a function of that of the error."""
    errors = np.array([_log(x.error) for x in task.curve])
    values = [_log(getattr(x, key)) for x in task.curve]
    return rising_line(errors, np.maximum.accumulate(values))


def _start(task: TaskEntry) -> tuple[float, bool]:
    """Return the error at which the encoder does the harm that a task has.

    Returns also whether this differs from the task's own error, as after a refit.
    """
    start, moved = min(task.error, _LARGEST), False
    if task.harm is not None and not _is_of_curve(task, task.harm):
        errors = [_log(x.error) for x in task.curve]
        grid = np.linspace(errors[0], errors[-1], _LOOKS)
        within = grid[_line(task, "kl")(grid) <= _log(task.harm.kl)]
        nearest = float(within[-1] if within.size else errors[0])
        moved = _log(start) > nearest + _NEAR
        # Its answers were looked at: it is not beyond the last point.
        start = math.exp(min(nearest + _NEAR, _log(start), errors[-1]))
    return start, moved


def _is_of_curve(task: TaskEntry, harm: Harm) -> bool:
    """Return whether a task is one of its trials, as rounded in manifests: no refit moved it."""
    error, kl = _log(min(task.error, _LARGEST)), _log(harm.kl)
    return any(
        abs(_log(x.error) - error) <= _ROUNDED and abs(_log(x.kl) - kl) <= _ROUNDED
        for x in task.curve
    )


def _log(value: float) -> float:
    return math.log(max(value, LEAST_HARM))
