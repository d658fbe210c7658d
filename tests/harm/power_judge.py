"""A judge that needs no model: harm is a power of each task's error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from hydraopt import open_bundle
from hydraopt.bundle import Harm
from hydraopt.codec import Factors
from hydraopt.merging import HarmJudge, Limit, Look, MeasuredHarm, MergeOptions, Plan, plan

THREE_LAYERS = [f"model.layers.{i}.self_attn.{name}_proj" for i in range(3) for name in "qv"]
FALLING = 0.8 ** np.arange(4)[:, None]
SCALES = {"easy": 0.01, "fair": 0.1, "hard": 0.6}
ANSWERS = 6_400
"""So many that a share of a few percent is told to a tenth of it."""


class PowerJudge(HarmJudge):
    """Harm is scale * (relative error)^1.2; counts how often it is asked."""

    def __init__(self, adapters, scales: Mapping[str, float], answers: int = ANSWERS) -> None:
        self.originals = {
            x.name: {path: np.matmul(*m.factors()) for path, m in x.modules.items()}
            for x in adapters
        }
        self.scales, self.answers, self.asked = scales, answers, 0

    def tasks(self) -> frozenset[str]:
        return frozenset(self.scales)

    def measure(
        self, task: str, coded: Callable[[], Mapping[str, Factors]], apart=False
    ) -> MeasuredHarm:
        self.asked += 1
        decoded, mine = coded(), self.originals[task]
        lost = whole = 0.0
        for path, dw in mine.items():
            got = decoded[path].B @ decoded[path].A if path in decoded else 0.0
            lost, whole = lost + float(np.square(dw - got).sum()), whole + float((dw**2).sum())
        likely = min(self.scales[task] * (lost / whole) ** 0.6, 1.0)
        harm = Harm(round(self.answers * likely), self.answers, likely, likely**2, True)
        return MeasuredHarm(harm, 0.0)


def planned(adapters, judge, **limit) -> Plan:
    """The plan of a merge with this judge and limit."""
    return plan(adapters, MergeOptions(limit=Limit(**limit), look=Look(judge), workers=1))


def harms_of(path: Path) -> dict[str, float]:
    """The likely share of changed answers that a bundle states, by task."""
    return {x.name: x.harm.likely for x in open_bundle(path).manifest.tasks if x.harm}
