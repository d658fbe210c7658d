"""Plain, by measured harm and fair at equal bytes: what tasks and languages lose, side by side."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import QUALITY
from benchmarks.quality.sets import (
    ALIKE,
    BOTH,
    NOT_SHARED,
    REFITTED,
    SHARED_OUT,
    WAYS,
    set_of,
)
from benchmarks.reports.scores import (
    SURE,
    dropped,
    drops,
    grouped,
    mean_drop,
    row_of,
    scored_tasks,
)
from benchmarks.reports.tables import table

__all__ = ["SECTIONS"]

Result = Mapping[str, Any]
_KEYS = ("task", "language", "adapter")


def _changed(result: Result, label: str) -> dict[str, float]:
    """By adapter, answers that change, in percent."""
    return {x["adapter"]: x["results"][label]["changed_pct"] for x in scored_tasks(result, label)}


def _methods(file: str, result: Result) -> str:
    lines = []
    for label, method in result["methods"].items():
        row, changed = row_of(file, result, label), _changed(result, label)
        worst = max(changed, key=lambda name: changed[name])
        low, high = row["mean_drop_interval"]
        lines.append(
            [
                f"{method['method']} {method['setting']}",
                f"{method['bytes']:,}",
                f"{row['mean_drop_pct']:.2f} [{low:.2f}, {high:.2f}]",
                f"{row['worst_drop_pct']:.1f} ({row['worst_task']})",
                f"{np.mean([*changed.values()]):.1f}",
                f"{changed[worst]:.1f} ({worst})",
                f"{row['kl']:.4f}",
            ]
        )
    heads = ["method", "bytes", "mean drop, %", "worst", "answers that change, %", "worst", "KL"]
    return table(heads, lines)


def _spread(result: Result, key: str) -> str:
    labels = list(result["methods"])
    columns = [
        grouped(result, values(result, label), key)
        for values in (dropped, _changed)
        for label in labels
    ]
    rows = [[k, *(f"{column[k]:.1f}" for column in columns)] for k in columns[0]]
    rows.append(["best to worst", *(f"{max(c.values()) - min(c.values()):.1f}" for c in columns)])
    rows.append(["standard deviation", *(f"{np.std([*c.values()]):.1f}" for c in columns)])
    names = [f"{m['method']} {m['setting']}" for m in result["methods"].values()]
    heads = [f"{what}, {name}" for what in ("drop", "changed") for name in names]
    return table([key, *heads], rows)


def _text(files: Sequence[str], result: Result) -> str:
    tasks: Sequence[Result] = result["tasks"]
    about = (
        f"{result['set']}: {len(tasks)} scored, {sum(x['rows'] for x in tasks):,} test rows,"
        f" {result['prompts']} prompts a task ({', '.join(f'`{x}`' for x in files)}).\n\n"
    )
    return about + "\n".join([_methods(files[0], result), *(_spread(result, key) for key in _KEYS)])


def _tables(file: str, result: Result) -> str:
    return "\n".join([_methods(file, result), _applications(result), _spread(result, "adapter")])


def _applications(result: Result) -> str:
    """A row for the tasks of each application, one for all, and one for all but the worst task."""
    groups: dict[str, set[str]] = {}
    for task in result["tasks"]:
        groups.setdefault(task["task"], set()).add(task["adapter"])
    groups = dict(sorted(groups.items()))
    groups["all"] = everything = set().union(*groups.values())
    labels = list(result["methods"])
    lost = {label: drops(result, label) for label in labels}
    worst = max((drop, name) for label in labels for name, (drop, _) in lost[label].items())[1]
    groups[f"all but {worst}"] = everything - {worst}
    rows = []
    for group, names in groups.items():
        cells = [_lost(lost[label], names) for label in labels]
        for values in (_changed, _kl):
            found = [values(result, label) for label in labels]
            cells += [_mean([x[name] for name in names], values is _kl) for x in found]
        rows.append([group, str(len(names)), *cells])
    named = [f"{m['method']} {m['setting']}" for m in result["methods"].values()]
    whats = ("drop, %, and sure drops,", "changed, %,", "KL an answer, geometric mean,")
    return table(["application", "tasks", *(f"{w} {n}" for w in whats for n in named)], rows)


def _lost(lost: Mapping[str, tuple[float, float]], names: set[str]) -> str:
    """Mean drop, its 95 % interval, and the tasks whose own interval lies above 0."""
    mine = {name: lost[name] for name in names if name in lost}
    if not mine:
        return ""
    mean, spread = mean_drop(mine)
    sure = sum(drop > SURE * deviation for drop, deviation in mine.values())
    return f"{mean:.1f} [{mean - SURE * spread:.1f}, {mean + SURE * spread:.1f}]; {sure} sure"


def _mean(values: Sequence[float], geometric: bool) -> str:
    """Of shares in percent the mean, of KL the geometric mean, in nats."""
    if not geometric:
        return f"{np.mean(values):.1f}"
    return f"{np.exp(np.mean(np.log(np.maximum(values, 1e-9)))):.4f}"


def _kl(result: Result, label: str) -> dict[str, float]:
    """By adapter, KL an answer, in nats."""
    return {x["adapter"]: x["results"][label]["kl_answer"] for x in scored_tasks(result, label)}


def _joined(results: Mapping[str, Result]) -> Iterator[tuple[list[str], Result]]:
    """Results by file; those of the same bundles, which have other tasks, as one."""
    parts: dict[str, list[str]] = {}
    for file, result in results.items():
        parts.setdefault(json.dumps(result["bundles"], sort_keys=True), []).append(file)
    for files in parts.values():
        tasks = [task for file in files for task in results[file]["tasks"]]
        yield files, {**results[files[0]], "tasks": tasks}


def _alike() -> str:
    files = sorted(QUALITY.glob(f"*.{ALIKE}.json"))
    results = {x.name: json.loads(x.read_text(encoding="utf-8")) for x in files}
    return "\n".join(_text(*joined) for joined in _joined(results))


def _shared_out() -> str:
    """Sizes that were shared out by measured harm, beside those that were not; and refits."""
    plans, texts = (SHARED_OUT, WAYS, BOTH, REFITTED, NOT_SHARED), []
    files = ((plans.index(plan), x) for plan in plans for x in QUALITY.glob(f"*.{plan}.json"))
    for plan, file in sorted(files):
        result = json.loads(file.read_text(encoding="utf-8"))
        judges = [m["options"]["judge"] for m in result["methods"].values() if m["options"]]
        asked, more = judges[0], max(judge.get("learned", 0) for judge in judges)
        learned = f", and {more} training rows for refits" if more else ""
        others = ""
        if plans[plan] in (REFITTED, NOT_SHARED):
            result, others = _beside(result, file.name.removesuffix(f".{plans[plan]}.json"))
        of, tasks = set_of(result["set"], result["adapters"]), result["tasks"]
        about = (
            f"{of}: {len(result['adapters'])} merged, {len(tasks)} scored,"
            f" {sum(x['rows'] for x in tasks):,} test rows, {asked['count']} prompts a"
            f" task at most, of {asked['split']} rows{learned} (`{file.name}`{others}).\n\n"
        )
        texts.append(about + _tables(file.name, result))
    return "\n".join(texts)


def _prompts(result: Result) -> set[tuple[str, int]]:
    """Where prompts are from and how many a task has, at most."""
    asked = (method["options"].get("judge") for method in result["methods"].values())
    return {(judge["split"], judge["count"]) for judge in asked if judge}


def _beside(result: Result, name: str) -> tuple[Result, str]:
    """The result with what other plans made of the same tasks, and where that is from; as it is
    where none scored the same rows of all of them. name: what its file begins with, for which
    others are looked for first."""
    plans = BOTH, SHARED_OUT, WAYS
    for start, plan in itertools.product((name, result["set"]), plans):
        file = QUALITY / f"{start}.{plan}.json"
        other = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"tasks": []}
        known = {task["adapter"]: task for task in other["tasks"]}
        same = [
            known.get(task["adapter"], {}).get(key) == task[key]
            for task in result["tasks"]
            for key in ("rows", "sha256")
        ]
        of_set = [other.get(key) == result[key] for key in ("adapters", "products", "split")]
        if all(same + of_set) and _prompts(other) <= _prompts(result):
            tasks = [
                {**task, "results": {**known[task["adapter"]]["results"], **task["results"]}}
                for task in result["tasks"]
            ]
            every = [task["results"] for task in tasks]
            scored = {k: m for k, m in other["methods"].items() if all(k in x for x in every)}
            methods = {**scored, **result["methods"]}
            return {**result, "methods": methods, "tasks": tasks}, f"; others `{file.name}`"
    return result, ""


SECTIONS = {"alike": _alike, "shared out": _shared_out}
