"""The scores of all sets, from the result files alone.

A row for each method and size: drops are in percent of the original adapter's score on the task's
own metric (negative is a gain). What the plan "closer" scored again with more test rows counts in
place of the same bundle's first score if it has all tasks: of some alone, chosen for what they
lost, it would make the mean look better.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.quality.sets import CLOSER, SETS, pinned, set_of

__all__ = [
    "NO_DROP",
    "SURE",
    "best_seen",
    "bundle_error",
    "bundle_key",
    "dropped",
    "drops",
    "every_row",
    "grouped",
    "grown",
    "headline",
    "mean_drop",
    "result_files",
    "row_of",
    "scored_tasks",
]

NO_DROP = 0.5
"""A drop of the mean, in percent of the originals' scores, that counts as none."""
RIVALS = "rivals"
"""The plan in which every method is compared with every other."""
SURE = 1.96
"""Standard deviations on either side that hold 95 %."""

Result = Mapping[str, Any]


@functools.cache
def _decoded(text: str) -> Any:
    """Decode a result file; every report reads all of them."""
    return json.loads(text)


def result_files(folder: Path = QUALITY, split: str = "test") -> Iterator[tuple[str, Result]]:
    """(file name, result) of every scored set, in order of name; what was tuned on is apart.

    A result's "set" is the one that pins its adapters, its "recipe" the one that its file names.

    A result has, as "closer", what that plan scored of its bundles: tasks by label and adapter.
    """
    read = {p.name: _decoded(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))}
    found = {
        name: {
            **result,
            "recipe": result["set"],
            "set": set_of(result["set"], result.get("adapters", {})),
        }
        for name, result in read.items()
        if result.get("set") in SETS
        and "methods" in result
        and result.get("split", "test") == split
    }
    looks = [(name, x) for name, x in found.items() if x.get("plan") == CLOSER]
    for name, result in found.items():
        if result.get("plan") == RIVALS:
            result = {**result, "tasks": _scored_by_all(result["tasks"])}
        if result.get("plan") != CLOSER:
            mine = (look for look in looks if look[1]["set"] == result["set"])
            yield name, {**result, "closer": _closer(result, mine)}


def _scored_by_all(tasks: Sequence[Result]) -> list[Result]:
    """Tasks that every method was scored on: means over others cannot be compared."""
    labels = {label for task in tasks for label in task["results"]}
    return [task for task in tasks if labels <= task["results"].keys()]


def _closer(
    result: Result, looks: Iterable[tuple[str, Result]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """By label and adapter, the tasks of another file where all of the same bundle was scored."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, look in looks:
        for label, bundle in look["bundles"].items():
            if result.get("bundles", {}).get(label) == bundle:
                tasks = {x["adapter"]: {**x, "file": name} for x in scored_tasks(look, label)}
                if tasks.keys() >= {x["adapter"] for x in scored_tasks(result, label)}:
                    found[label] = tasks
    return found


def drops(result: Result, label: str) -> dict[str, tuple[float, float]]:
    """By adapter: (drop, its standard deviation) in percent of the original's score."""
    found = {}
    for task in scored_tasks(result, label):
        original = task["results"]["original"]["scores"].get(task["metric"])
        change = task["results"][label].get("difference", {}).get(task["metric"])
        if original and change:
            found[task["adapter"]] = (
                -100 * change["difference"] / original,
                100 * change["deviation"] / original,
            )
    return found


def dropped(result: Result, label: str) -> dict[str, float]:
    """By adapter, the drop alone."""
    return {name: drop for name, (drop, _) in drops(result, label).items()}


def grouped(result: Result, values: Mapping[str, float], key: str) -> dict[str, float]:
    """Means of what adapters have, over the tasks of each group. key: "task" or "language"."""
    groups: dict[str, list[float]] = {}
    for task in result["tasks"]:
        if task["adapter"] in values:
            groups.setdefault(task[key], []).append(values[task["adapter"]])
    return {name: sum(mine) / len(mine) for name, mine in sorted(groups.items())}


def mean_drop(lost: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """The mean of :func:`drops` and its standard deviation; rows of different tasks are drawn
    apart, so their variances add up."""
    spread = math.sqrt(sum(deviation**2 for _, deviation in lost.values()))
    return sum(drop for drop, _ in lost.values()) / len(lost), spread / len(lost)


def scored_tasks(result: Result, label: str) -> list[Result]:
    """The tasks that have been scored with a method; a run under way has more tasks for some."""
    closer = result.get("closer", {}).get(label, {})
    tasks = [task for task in result["tasks"] if label in task["results"]]
    return [closer.get(task["adapter"], task) for task in tasks]


def row_of(name: str, result: Result, label: str) -> dict[str, Any]:
    """One row of the headline: a method at a size."""
    method = result["methods"][label]
    lost = drops(result, label)
    worst = max(lost, key=lambda adapter: lost[adapter][0])
    mean, spread = mean_drop(lost)
    half = SURE * spread
    tasks = scored_tasks(result, label)
    scores = [task["results"][label] for task in tasks]
    recovered = [100 * min(score["recovery"], 1.0) for score in scores if "recovery" in score]
    errors = [method["errors"][task["adapter"]] for task in tasks]
    files = dict.fromkeys([name, *(task["file"] for task in tasks if "file" in task)])
    return {
        "method": method["method"],
        "setting": method.get("setting", ""),
        "size_pct": round(method["size_pct"], 3),
        "bytes": method["bytes"],
        "mean_drop_pct": round(mean, 4),
        "mean_drop_interval": [round(mean - half, 4), round(mean + half, 4)],
        "worst_drop_pct": round(lost[worst][0], 4),
        "worst_task": worst,
        "top1_agreement_pct": round(sum(s["agreement"] for s in scores) / len(scores), 4),
        "kl": round(sum(s["kl"] for s in scores) / len(scores), 6),
        "changed_pct": _mean_of("changed_pct", scores),
        "kl_answer": _mean_of("kl_answer", scores),
        "mean_recovery_pct": round(sum(recovered) / len(recovered), 4) if recovered else None,
        "worst_recovery_pct": round(min(recovered), 4) if recovered else None,
        "relative_error": round(sum(errors) / len(errors), 5),
        "bundle_error": bundle_error(method),
        "guessed_error": _guessed(result.get("guess", ()), method["size_pct"]),
        "tasks": len(lost),
        "test_rows": sum(task.get("rows", 0) for task in tasks),
        # A drop in percent of nothing is no number: an original that scores 0, or was not written.
        "left_out": sorted({task["adapter"] for task in tasks} - set(lost)),
        "results": [f"benchmarks/results/quality/{file}" for file in files],
    }


def _mean_of(key: str, scores: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean over tasks; None where one of them was scored without it."""
    values = [score.get(key) for score in scores]
    known = [float(x) for x in values if x is not None]
    return round(sum(known) / len(known), 6) if len(known) == len(values) else None


def _guessed(points: Sequence[Mapping[str, float]], size_pct: float) -> float | None:
    """The error that inspect guesses for a size, log-linear; None outside its points."""
    known = sorted((math.log(100 * x["fraction"]), math.log(x["error"])) for x in points)
    size = math.log(size_pct)
    for (a, low), (b, high) in itertools.pairwise(known):
        if a <= size <= b:
            return round(math.exp(low + (high - low) * (size - a) / max(b - a, 1e-12)), 5)
    return None


def bundle_error(method: Mapping[str, Any]) -> float:
    """The mean error of a bundle over all its tasks; 0 if its method has none."""
    errors = [float(x) for x in method["errors"].values()]
    return round(sum(errors) / max(len(errors), 1), 5)


def bundle_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Equal for rows of one bundle. Two that fill one size may have equal bytes by chance, so
    their errors count too; to two digits, as some results have them rounded task by task."""
    return row["method"], row["setting"], row["bytes"], round(row["bundle_error"], 2)


def best_seen(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A bundle that two runs scored, once: by the run with more test rows."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = bundle_key(row)
        if key not in found or found[key]["test_rows"] < row["test_rows"]:
            found[key] = row
    return list(found.values())


def _widest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without rows over a part of the tasks where the same method and setting has one over more."""
    most: dict[tuple[str, str], int] = {}
    for row in rows:
        key = row["method"], row["setting"]
        most[key] = max(most.get(key, 0), row["tasks"])
    return [row for row in rows if row["tasks"] == most[row["method"], row["setting"]]]


def grown(folder: Path = QUALITY) -> Any:
    """The result of growth.py; None where it has not come to its end."""
    file = folder / "growth.json"
    result = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return result if "table" in result else None


def every_row(folder: Path = QUALITY) -> dict[str, Any]:
    """By set: how many tasks, and all its rows, those over a part of the tasks among them."""
    sets: dict[str, Any] = {}
    for name, result in result_files(folder):
        if not result["tasks"]:
            continue
        entry = sets.setdefault(result["set"], {"n": 0, "rows": []})
        entry["n"] = max(entry["n"], len(result["tasks"]))
        # A method without a score is no row; SET.PLAN.json has its bytes and errors.
        named = [label for label in result["methods"] if drops(result, label)]
        entry["rows"] += [row_of(name, result, label) for label in named]
    for entry in sets.values():
        entry["rows"] = best_seen(entry["rows"])
        entry["rows"].sort(key=lambda row: (row["method"], -row["bytes"]))
    order = {name: place for place, name in enumerate(sorted(pinned()))}
    return dict(sorted(sets.items(), key=lambda x: (order.get(x[0], math.inf), x[0])))


def headline(folder: Path = QUALITY) -> dict[str, Any]:
    """By set: how many tasks, and the rows that stand for it: of a method and setting, those over
    the most tasks."""
    found = every_row(folder)
    return {"sets": {x: {**entry, "rows": _widest(entry["rows"])} for x, entry in found.items()}}
