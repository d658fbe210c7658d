"""Rescale: a draft whose parts have other coefficients than the encoder fitted.

A coefficient is a whole number of steps of 1/32 octave, so another choice takes hardly another
byte. The encoder fits them to the weights; who has the base model at hand knows better (see
hydraopt.basemodel.gains). All else in the streams stays as it was coded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydraopt.adapters import Adapter
from hydraopt.coding.records import PartsRecord
from hydraopt.errors import UsageError, explain
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.align import MergeSet
from hydraopt.merging.budget import Budget
from hydraopt.merging.draft import Draft
from hydraopt.merging.rewrite import CodedModules, Rewritten, rewritten

__all__ = ["Rescaler", "rescaled"]

Shifts = Mapping[str, NDArray[np.int64]]
Rescaler = Callable[[str, Callable[[], Mapping[str, Factors]]], Shifts]
"""Called with a task's name and with a function that decodes its coded factors by module path,
B (m, k) and A (k, n). Gives, by module path, by how many steps of 1/32 octave each of the k parts
shall grow, (k,) integers; modules that are left out stay as they are, and an empty answer leaves
the task alone."""


def rescaled(
    draft: Draft,
    pieces: MergeSet,
    adapters: Mapping[str, Adapter],
    ask: Rescaler,
    budget: Budget,
    value_of: Callable[[Draft, int], float],
) -> Rewritten:
    """The draft with the coefficients that ``ask`` gives, its errors measured anew.

    adapters, value_of, and which tasks go back: as for :func:`hydraopt.merging.rewrite.rewritten`.
    Raises UsageError for an answer that does not fit the parts.
    """

    def records(name: str, modules: CodedModules) -> dict[str, PartsRecord]:
        return _moved(name, modules, ask)

    return rewritten(draft, pieces, adapters, records, budget, value_of)


def _moved(name: str, modules: CodedModules, ask: Rescaler) -> dict[str, PartsRecord]:
    shifts = ask(name, lambda: {path: x.record.factors for path, x in modules().items()})
    if not any(np.any(shift) for shift in shifts.values()):
        return {}
    records = {path: x.record for path, x in modules().items()}
    moved = {}
    for path, shift in shifts.items():
        _check(name, path, shift, records[path].count if path in records else None)
        exponents = records[path].exponents + np.asarray(shift, np.int64)
        moved[path] = dataclasses.replace(records[path], exponents=exponents)
    return moved


def _check(task: str, path: str, shift: Any, count: int | None) -> None:
    steps = np.asarray(shift)
    if count is None or steps.shape != (count,) or steps.dtype.kind not in "iu":
        wanted = "no module of that name" if count is None else f"{count} integers"
        raise UsageError(
            explain(
                "cannot rescale the parts of a module",
                adapter=task,
                module=path,
                got=f"{steps.dtype} of shape {steps.shape}",
                expected=wanted,
            )
        )
