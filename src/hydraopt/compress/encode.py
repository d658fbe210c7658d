"""Encoder: turn the plan of a module into rounded numbers, each step fitted to the one before.

Order, and why: the shared bases are rounded first, since every task builds on them; then a task's
right side (the inputs, where errors hurt most); then its left side, fitted to the rounded right
one; then the coefficients, fitted to both. What is fitted last mends what was rounded before it.
All fits are in the measure's inner product, so that none of the adapter's own effect is traded for
noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hydraopt.coding.forms import Mode, Way
from hydraopt.coding.records import PartsRecord
from hydraopt.coding.side import BasisRecord, quantise_basis
from hydraopt.compress.alike import Alike, Begun, encode_alike, steps
from hydraopt.compress.blocks import AnyCore
from hydraopt.compress.core import ModuleCore
from hydraopt.compress.measure import Measure
from hydraopt.compress.plan import ModulePlan, TaskPlan
from hydraopt.compress.sides import BasisPlan
from hydraopt.compress.started import Starts
from hydraopt.linalg.basis import Bases
from hydraopt.linalg.shapes import Factors, Thin
from hydraopt.threads import in_threads

__all__ = ["EncodedModule", "encode_bases", "encode_module", "squared_error"]

_TOGETHER: Final = 1 << 20
"""Approximate count of numbers of a side that are rounded at once."""
_EXACT: Final = 1e-4
"""Share of |dW|^2. Smaller errors are measured by the exact product of the stored factors."""


@dataclass(frozen=True)
class EncodedModule:
    """Module that is ready to be written.

    left, right: the bases to be written; has_bases: whether records are over any, also over such
    as are written elsewhere.
    records: for each task of the module, in the core's order, its parts or None if nothing pays.
    energies, errors: squared Frobenius norms of dW_t and of dW_t - dW~_t, measured after rounding.
    """

    contents: tuple[int, ...]
    left: BasisRecord | None
    right: BasisRecord | None
    records: tuple[PartsRecord | None, ...]
    energies: tuple[float, ...]
    errors: tuple[float, ...]
    has_bases: bool


def encode_bases(
    core: AnyCore, plan: ModulePlan, threads: int = 1
) -> tuple[BasisRecord | None, BasisRecord | None]:
    """Round the bases of a plan, left and right."""
    sides = (plan.left, "left"), (plan.right, "right")
    _read_ahead(core, threads)
    left, right = in_threads(lambda side: _encode_basis(core, *side), sides, threads)
    return left, right


def _read_ahead(core: AnyCore, threads: int) -> None:
    """Let a core read its vectors before several threads ask for them.

    Only one thread at a time may read the file that holds them, and from Python 3.12 on each thread
    would read them for itself.
    """
    if threads > 1 and isinstance(core, ModuleCore):
        core.U  # noqa: B018  # kept by being asked for


def _encode_basis(core: AnyCore, plan: BasisPlan | None, side: str) -> BasisRecord | None:
    if plan is None:
        return None
    directions = core.directions(plan.space, side, plan.q)
    return quantise_basis(directions * steps(plan.classes, directions.shape[0]))


def encode_module(
    core: ModuleCore,
    plan: ModulePlan,
    measure: Measure,
    given: Bases | None = None,
    threads: int = 1,
    starts: Starts | None = None,
) -> EncodedModule:
    """Encode all tasks of a module under its plan; deterministic.

    given: the bases that the plan was made over, if they are there already. threads: that tasks are
    shared out to; does not change the result. starts: those that the plan was made with.
    """
    left = right = None
    _read_ahead(core, threads)
    if given is None:
        left, right = encode_bases(core, plan, threads)
        given = left.basis if left else None, right.basis if right else None
    records: list[PartsRecord | None] = [None] * len(core.s)
    energies = [float(s @ s) for s in core.s]
    errors = energies.copy()

    def encoded(group: tuple[list[int], int]) -> list[tuple[PartsRecord, float] | None]:
        return encode_alike(_alike(core, plan, *group, measure, starts), *given)

    groups = list(_groups(core, plan, given, threads))
    for (tasks, _), some in zip(groups, in_threads(encoded, groups, threads), strict=True):
        for i, done in zip(tasks, some, strict=True):
            if done is None:
                continue
            records[i], errors[i] = done
            if errors[i] <= _EXACT * energies[i]:
                errors[i] = squared_error(core.thin(i), done[0])
    return EncodedModule(
        core.contents,
        left,
        right,
        tuple(records),
        tuple(energies),
        tuple(errors),
        any(basis is not None for basis in given),
    )


def _groups(
    core: ModuleCore, plan: ModulePlan, given: Bases, threads: int
) -> Iterator[tuple[list[int], int]]:
    """Yield tasks of one mode, rank and number of parts, some at a time.

    Tasks without parts are left out. threads: minimum number of groups of each kind, if it has as
    many tasks.
    """
    groups: dict[tuple[Mode, int, int], list[int]] = {}
    for i, (task, s) in enumerate(zip(plan.tasks, core.s, strict=True)):
        k = min(_most(task, given), s.size)
        if k:
            groups.setdefault((task.mode, s.size, k), []).append(i)
    for (_, rank, k), tasks in groups.items():
        most = max(_TOGETHER // (rank * max(core.m, core.n)), 1)
        some = min(most, -(-len(tasks) // threads))
        for first in range(0, len(tasks), some):
            yield tasks[first : first + some], k


def _most(task: TaskPlan, given: Bases) -> int:
    """Return the largest number of parts that the shared sides of a task have room for."""
    ways = (task.mode.left, task.mode.right)
    rooms = [
        basis.q
        for way, basis in zip(ways, given, strict=True)
        if way is Way.SHARED and basis is not None
    ]
    return min([task.left.size, *rooms])


def _alike(
    core: ModuleCore,
    plan: ModulePlan,
    tasks: Sequence[int],
    k: int,
    measure: Measure,
    starts: Starts | None,
) -> Alike:
    """Return the input of encode_alike for tasks of one group of :func:`_groups`, of k parts."""
    mode, begun = plan.tasks[tasks[0]].mode, list[Begun]()
    for i in tasks if mode.right is Way.STARTED else ():
        drawn = None if starts is None else starts.here(core.contents[i])
        assert drawn is not None
        begun.append(Begun(drawn, plan.tasks[i].own))
    return Alike(
        mode,
        core.rows("left", tasks),
        np.stack([core.s[i] for i in tasks]),
        core.rows("right", tasks),
        np.stack([plan.tasks[i].left[:k] for i in tasks]),
        np.stack([plan.tasks[i].right[:k] for i in tasks]),
        measure.unbiased,
        begun,
    )


def squared_error(thin: Thin, record: PartsRecord) -> float:
    """Return |dW - dW~|^2 from the small cores, in float64; good to 1e-14 of |dW|^2."""
    got = record.factors
    cross = np.sum(((thin.U.T @ got.B) * thin.s[:, None]) * (got.A @ thin.V).T)
    error = thin.energy - 2 * float(cross) + got.squared_norm()
    if error > _EXACT * thin.energy:
        return error
    # The stored factors are orthonormal to single precision only: where that shows, use the norm
    # of what they really multiply to, so that the three terms cancel exactly.
    whole = Factors(thin.U * thin.s, thin.V.T).squared_norm()
    return max(whole - 2 * float(cross) + got.squared_norm(), 0.0)
