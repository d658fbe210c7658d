"""Score built rows: drop scores of changed rows, and score what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.quality.harness.building import Note
from benchmarks.rivals.base import Compressor, Modules
from hydraopt.adapters import Adapter

__all__ = [
    "Result", "UnlikeRunsError", "check_originals", "merged_scores", "scored", "stale",
    "with_aliases",
]  # fmt: skip

Result = dict[str, Any]
_SHARED = frozenset({"base", "original"})
_SAME = ("sha256", "rows", "left_out", "metric", "tokens")
"""What two runs over one task's rows have in common; sha256 is of the task's file."""


_ROUNDING = 0.02
"""Largest gap between a score and the original's plus the difference, all of them rounded."""
_NEAR = 1e-3
"""Largest relative gap between the losses of one model over the same rows in two runs."""


class UnlikeRunsError(SystemExit):
    """Results of two runs that cannot be joined, because something that they share differs."""


def check_originals(task: Mapping[str, Any], where: str) -> None:
    """Raise UnlikeRunsError for a row whose difference is from another original than the task's."""
    original = task["results"].get("original", {}).get("scores", {})
    for label, row in task["results"].items():
        for metric, change in (row.get("difference") or {}).items():
            if metric not in original or metric not in row["scores"]:
                continue
            theirs = row["scores"][metric] - change["difference"]
            if abs(theirs - original[metric]) > _ROUNDING:
                raise UnlikeRunsError(
                    f"{where}, {task['adapter']}: {label} is compared with an original of "
                    f"{metric} {theirs:.2f}, and the result has one of {original[metric]:.2f}; "
                    "remove the row and score it again"
                )


def stale(
    task: Mapping[str, Any], before: Mapping[str, Any], methods: Mapping[str, Note]
) -> Result:
    """A scored task without the rows whose files are no longer those that were scored."""
    kept = {
        label: score
        for label, score in task["results"].items()
        if label in _SHARED
        or (label in methods and before.get(label, {}).get("sha256") == methods[label]["sha256"])
    }
    return {**task, "results": kept}


def merged_scores(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Result:
    """Join one task's results of two runs over the same rows.

    Raises UnlikeRunsError if rows, base or original were others: differences from one original say
    nothing about another one.
    """
    if old is None:
        return dict(new)
    before, now = old.get("results", {}), new["results"]
    changed = [key for key in _SAME if old.get(key) != new.get(key)]
    changed += [key for key in sorted(_SHARED) if _unlike(before.get(key), now.get(key))]
    if changed:
        raise UnlikeRunsError(
            f"{new['adapter']} was scored by another {', '.join(changed)}; remove the result"
        )
    return {**new, "results": {**now, **before, **{x: now[x] for x in now.keys() - _SHARED}}}


def _unlike(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
    """Whether a model did something else in two runs, as on another machine."""
    if old is None or new is None:
        return False
    near = math.isclose(old.get("loss", 0.0), new.get("loss", 0.0), rel_tol=_NEAR)
    return not near or old.get("scores") != new.get("scores")


def with_aliases(task: Result, rows: Sequence[Compressor]) -> Result:
    """Rows whose factors are another's get its scores."""
    results = dict(task["results"])
    for row in rows:
        if row.same_as and row.same_as in results:
            results[row.label] = results[row.same_as]
    return {**task, "results": results}


def scored(
    adapters: Sequence[Adapter],
    others: Mapping[str, Mapping[str, Modules]],
    request: Any,
    known: Sequence[Result],
    keep: Callable[[Mapping[str, Any], list[Result]], None],
) -> None:
    """Score what is missing: adapters that lack the same rows go through the model together.

    known: tasks scored before, by any rows. keep: called with the head of the evaluation and all
    tasks so far, in the adapters' order, after every task.
    """
    from hydraopt.evaluate.compare import Compared, evaluate
    from hydraopt.evaluate.results import Evaluation
    from hydraopt.jsonvalues import to_json

    tasks: dict[str, Result] = {task["adapter"]: task for task in known}
    groups: dict[tuple[str, ...], list[Adapter]] = {}
    for adapter in adapters:
        have = tasks.get(adapter.name, {}).get("results", {})
        missing = tuple(label for label in others if label not in have)
        if missing or not have:
            groups.setdefault(missing, []).append(adapter)
    for missing, mine in groups.items():
        compared = Compared(
            {adapter.name: adapter for adapter in mine},
            {},
            {adapter.name: adapter.source.parent for adapter in mine},
            {label: others[label] for label in missing},
        )

        def add(evaluation: Evaluation) -> None:
            result = to_json(evaluation)
            last = result["tasks"][-1]
            tasks[last["adapter"]] = merged_scores(tasks.get(last["adapter"]), last)
            head = {key: value for key, value in result.items() if key not in ("tasks", "seconds")}
            head["adapters"] = {adapter.name: adapter.content_hash() for adapter in adapters}
            head["fp16_bytes"] = 2 * sum(adapter.numbers for adapter in adapters)
            keep(head, [tasks[a.name] for a in adapters if a.name in tasks])

        evaluate(compared, request, None, (), add)
