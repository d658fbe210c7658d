"""Refit: a draft whose parts were trained to keep the original's answers, at the same rate.

The encoder rounds each module to be near its weights; who has the base model at hand can train all
parts of a task together, so that one mends what rounding did to another (see
hydraopt.harm.refit). A record keeps its parts' number, ways and spread classes, so it takes
about the same bytes, and neither the shared bases nor other tasks change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hydraopt.adapters import Adapter
from hydraopt.coding.records import PartsRecord
from hydraopt.errors import UsageError, explain
from hydraopt.merging.align import MergeSet
from hydraopt.merging.budget import Budget
from hydraopt.merging.draft import Draft
from hydraopt.merging.rewrite import CodedModules, Rewritten, rewritten

__all__ = ["Refitter", "refitted"]

Refitter = Callable[[str, CodedModules], Mapping[str, PartsRecord]]
"""Called with a task's name and with a function that decodes its modules by path. Gives other
records, of as many parts, by module path; modules that are left out stay as they are, and an empty
answer leaves the task alone."""


def refitted(
    draft: Draft,
    pieces: MergeSet,
    adapters: Mapping[str, Adapter],
    ask: Refitter,
    budget: Budget,
    value_of: Callable[[Draft, int], float],
) -> Rewritten:
    """Return the draft with the records that ``ask`` gives; its errors stay against the originals.

    adapters, value_of, and the choice of tasks that go back to keep the budget: as for
    :func:`hydraopt.merging.rewrite.rewritten`.

    Raises UsageError for records that do not fit.
    """

    def checked(name: str, modules: CodedModules) -> Mapping[str, PartsRecord]:
        others = ask(name, modules)
        if others:
            _check(name, modules, others)
        return others

    return rewritten(draft, pieces, adapters, checked, budget, value_of)


def _check(task: str, modules: CodedModules, others: Mapping[str, PartsRecord]) -> None:
    before = modules()
    for path, other in others.items():
        wanted = _said(before[path].record) if path in before else "no module of that name"
        if _said(other) != wanted:
            raise UsageError(
                explain(
                    "cannot replace a record of a module",
                    adapter=task,
                    module=path,
                    got=_said(other),
                    expected=wanted,
                )
            )


def _said(record: PartsRecord) -> str:
    m, n = record.left.values.shape[0], record.right.values.shape[0]
    return f"{record.count} {record.mode.form} parts of {m} x {n}, mode {record.mode.code}"
