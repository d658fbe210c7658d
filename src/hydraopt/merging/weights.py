"""What a unit of squared error counts, by task and by module.

An error E of content c in module i costs ``w_c s_ci |E|^2`` (times what the measure says of its
kind). ``task_weights`` gives w, from what the user wants and the size of a task's dW;
``module_weights`` gives s, from what was seen of the modules or is known of their kind. A pass
takes their product, (contents, modules). Only ratios matter to the planner; s leaves a content's
total weight, over its own dW, as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hydraopt.bundle.spec import ModuleEntry
from hydraopt.compress.measure import Measure
from hydraopt.errors import UsageError, explain
from hydraopt.linalg.shapes import Array
from hydraopt.merging.align import MergeSet

__all__ = ["Sensitivity", "importances", "module_weights", "task_weights"]

Sensitivity = Mapping[str, Mapping[str, float]]
"""By task and module path: what a unit of squared error of that module's dW does to the task."""


def importances(pieces: MergeSet, given: Mapping[str, float]) -> Array:
    """(contents,), the sum over the tasks that share a content; 1 for a task that is not given.

    Raises UsageError for unknown tasks and for numbers that are not positive.
    """
    unknown = sorted(set(given) - {task.name for task in pieces.tasks})
    if unknown:
        raise UsageError(
            explain(
                "importance is given for a task that is not there",
                got=", ".join(unknown),
                expected=", ".join(task.name for task in pieces.tasks),
            )
        )
    importance = np.zeros(pieces.contents)
    for task in pieces.tasks:
        value = given.get(task.name, 1.0)
        if not (value > 0 and math.isfinite(value)):
            raise UsageError(explain("an importance must be positive", got=f"{task.name}={value}"))
        if task.content is not None:
            importance[task.content] += value
    return importance


def task_weights(energies: Array, importance: Array, measure: Measure) -> Array:
    """``w_c = importance_c / |dW_c|^(2 relative)``, (contents,).

    energies: (contents, modules), squared Frobenius norms. In all the weights are as if relative
    errors counted, so that a price means the same in every measure.
    """
    norms = np.sqrt(energies.sum(axis=1))
    some = norms > 0
    if not some.any():
        return importance
    norms = np.where(some, norms, 1.0)
    size = norms / np.median(norms[some])
    size = np.clip(size, 1 / measure.farthest, measure.farthest)
    weights: Array = importance * size ** (2 - 2 * measure.relative) / norms**2
    weights *= importance[some].sum() / (weights[some] @ norms[some] ** 2)
    return weights


def module_weights(pieces: MergeSet, energies: Array, measure: Measure, seen: Sensitivity) -> Array:
    """(contents, modules): the sensitivities of a task of which they are given, else what the
    measure expects of modules of that kind.

    Raises UsageError for unknown tasks, for modules that are left out and for numbers that are not
    positive.
    """
    unknown = sorted(set(seen) - {task.name for task in pieces.tasks})
    if unknown:
        raise UsageError(explain("sensitivity of a task that is not there", got=", ".join(unknown)))
    weights = np.tile(_expected(pieces.modules, measure), (pieces.contents, 1))
    for task in pieces.tasks:
        mine = seen.get(task.name)
        if mine is None or task.content is None:
            continue
        for index in task.modules:
            path = pieces.modules[index].path
            value = mine.get(path, 0.0)
            if not (value > 0 and math.isfinite(value)):
                raise UsageError(
                    explain(
                        f"sensitivity of {task.name} must be a positive number for each module",
                        module=path,
                        got=value if path in mine else "nothing",
                    )
                )
            weights[task.content, index] = value
    totals = energies.sum(axis=1)
    weighed = (weights * energies).sum(axis=1)
    weights *= np.where(weighed > 0, totals / np.where(weighed > 0, weighed, 1.0), 1.0)[:, None]
    return weights


def _expected(modules: tuple[ModuleEntry, ...], measure: Measure) -> Array:
    """What the measure expects of each module, (modules,), from its name and height alone.

    Keys and values that several query heads share count as often: that is ``m_q / m_k``.
    """
    heights = {module.path: module.m for module in modules}
    weights = np.ones(len(modules))
    for index, module in enumerate(modules):
        parent, _, name = module.path.rpartition(".")
        weights[index] = measure.kinds.get(name, 1.0)
        if name in measure.grouped:
            queries = heights.get(f"{parent}.q_proj", module.m)
            weights[index] *= max(queries / module.m, 1.0)
    return weights
