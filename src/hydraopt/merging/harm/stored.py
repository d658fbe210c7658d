"""A judge that has no base model: it looks up the curve that a bundle keeps of each task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from hydraopt.bundle.harm import Harm
from hydraopt.bundle.spec import Manifest
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.harm.curves import LEAST_HARM, Line
from hydraopt.merging.harm.judging import Judged

__all__ = ["StoredCurves"]

_ANSWERS: Final = 1000  # of which shares are told; nobody is shown this count


class StoredCurves:
    """Harm by the relative error against the original, from the curves in a manifest.

    A task's errors against what the bundle holds add to those that the bundle has: they are
    independent noise, so squares add. A task of fewer than two points has no curve. How sure the
    original is of its answers is not kept, so each that changes counts as lost.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._before = {task.name: task.error for task in manifest.tasks}
        self._lines: dict[str, tuple[Line, Line, float]] = {}
        for task in manifest.tasks:
            if len(task.curve) < 2:
                continue
            errors = np.log([max(x.error, LEAST_HARM) for x in task.curve])
            harms = (
                np.maximum.accumulate([math.log(max(value, LEAST_HARM)) for value in values])
                for values in ([x.likely for x in task.curve], [x.kl for x in task.curve])
            )
            likely, kl = (Line(errors, values) for values in harms)
            self._lines[task.name] = likely, kl, float(errors[-1])

    def tasks(self) -> frozenset[str]:
        """The tasks that have a curve."""
        return frozenset(self._lines)

    def measure(
        self,
        task: str,
        coded: Callable[[], Mapping[str, Factors]],
        error: float,
        apart: bool = False,
    ) -> Judged:
        """What the curve says; beyond its largest error, where nobody has looked, everything is
        likely to change."""
        likely, kl, last = self._lines[task]
        log = math.log(max(math.hypot(error, self._before[task]), LEAST_HARM))
        share, nats = (math.exp(float(line(np.array([log]))[0])) for line in (likely, kl))
        share = min(share, 1.0) if log <= last + _ROUNDED else 1.0
        return Judged(Harm(round(share * _ANSWERS), _ANSWERS, share, nats, True), 0.0, 0.0, share)


_ROUNDED: Final = 0.05
"""Of the logarithm of an error, which a manifest keeps in steps of 4.4 %."""
