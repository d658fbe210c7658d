"""What the draw of the rounding does: merges to nearly one size round numbers differently."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.reports.same_rows import LEAST, Result, Values, results
from benchmarks.reports.tables import MISSING, table
from benchmarks.rivals.base import METHOD

__all__ = ["SECTIONS", "noise"]

_NEAR = 1.02
"""Sizes within this factor are one size."""


def _near(result: Result) -> Iterator[list[str]]:
    """Yield the labels of three or more of hydraopt's sizes that are nearly one."""
    labels = [*result.every_size_of(METHOD).values()]
    shares = [result.methods[label]["share"] for label in labels]
    groups: list[list[str]] = []
    for i, label in enumerate(labels):
        if i and shares[i - 1] < _NEAR * shares[i]:
            groups[-1].append(label)
        else:
            groups.append([label])
    return (x for x in groups if len(x) > 2)


def _spread(kl: Values) -> float:
    """Return the factor of one standard deviation of KL (tasks, draws), or (1, draws)."""
    logs = np.log(np.maximum(kl, LEAST))
    return float(np.exp(np.sqrt(np.mean(np.var(logs, axis=1, ddof=1)))))


def noise() -> str:
    """Return for each group of sizes how far KL and changed answers differ among them."""
    lines = []
    for result in results():
        for labels in _near(result):
            tasks = result.scored(*labels).values
            if not tasks:
                continue
            values = np.array([[by[x].mean(axis=0) for x in labels] for by in tasks.values()])
            changed = ", ".join(f"{100 * x:.1f}" for x in values[:, :, 0].mean(axis=0))
            settings = ", ".join(result.methods[x]["setting"] for x in labels)
            kl = values[:, :, 1]
            lines.append(
                [
                    f"`{result.set}`, {len(tasks)}",
                    settings,
                    f"{changed} %",
                    ", ".join(f"{x:.2g}" for x in kl.mean(axis=0)),
                    f"{_spread(kl.mean(axis=0)[None]):.2f}",
                    f"{_spread(kl):.2f}",
                ]
            )
    head = ["set, tasks", "sizes", "answers changed", "mean KL"]
    head += ["of the mean KL", "of the KL of a task"]
    return table(head, lines) if lines else MISSING


SECTIONS = {"noise": noise}
