"""Score bundles beside the base and the originals; save after every task."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common import save_json
from hydraopt.adapters import Adapter
from hydraopt.basemodel.model import factors_key
from hydraopt.collection.opening import open_bundle
from hydraopt.evaluate.compare import Compared, EvaluationRequest, bundles_of, evaluate
from hydraopt.evaluate.results import Evaluation
from hydraopt.evaluate.taskfile import read_task_file
from hydraopt.files.reading import file_hash
from hydraopt.jsonvalues import to_json

__all__ = ["is_as_merged", "score", "scored"]

_DIGITS = 16
"""Of a hash of factors; files stay small."""


def score(
    out: Path,
    adapters: Sequence[Adapter],
    made: Sequence[tuple[Path, Any]],
    request: EvaluationRequest,
    extra: Mapping[str, Any],
    take: Sequence[Path] = (),
) -> dict[str, Any]:
    """Score bundles, with what their merges said, task by task; saved at ``out`` after each, with
    ``extra``.

    Goes on with what is there already, of other bundles as well where those of today hold the same
    factors of the tasks that are done; SystemExit where it is of something else. take: other
    results, of bundles beside those of today: what they scored of the same factors is not scored
    again, for tasks of which they have all together.
    """
    _refuse_changed(made)
    compared = Compared(
        {adapter.name: adapter for adapter in adapters},
        {path.name: open_bundle(path) for path, _ in made},
        {adapter.name: adapter.source.parent for adapter in adapters},
    )
    before = _before(out)
    known = list(before.get("tasks", ()))
    methods = {path.name: said for path, said in made}
    now = {
        "rows": request.rows,
        "products": request.products,
        "methods": methods,
        "adapters": {adapter.name: adapter.content_hash() for adapter in adapters},
        "bundles": to_json(bundles_of(compared)),
    }
    _refuse_others(out.name, before, now, compared)
    _refuse_other_rows(out.name, before, request)
    if take:
        have = {task["adapter"] for task in known}
        wanted = {a.name for a in adapters if not request.only or a.name in request.only} - have
        known += _taken(take, now, compared, request, made[0][0].parent, wanted)

    def whole(evaluation: Evaluation) -> dict[str, Any]:
        result = to_json(evaluation)
        seconds = round(result["seconds"] + before.get("seconds", 0), 1)
        # With --only, what is known of the others stays.
        tasks = {task["adapter"]: task for task in (*known, *result["tasks"])}
        ordered = [tasks[a.name] for a in adapters if a.name in tasks]
        for task in ordered:
            if "factors" not in task:
                task["factors"] = _factors(compared, task["adapter"])
        return {**result, **extra, "methods": methods, "tasks": ordered, "seconds": seconds}

    def keep(evaluation: Evaluation) -> None:
        saved = whole(evaluation)
        save_json(out, saved)
        _say(saved, set(request.only or compared.adapters), evaluation.tasks[-1].adapter)

    have = {task["adapter"] for task in known}
    result = whole(evaluate(compared, request, None, have, keep))
    save_json(out, result)  # also where bundles alone are others
    return result


def _say(saved: Mapping[str, Any], asked: set[str], last: str) -> None:
    """Print how many of the adapters are done."""
    done = sum(task["adapter"] in asked for task in saved["tasks"])
    print(f"{done}/{len(asked)} {last}, {saved['seconds']:.0f} s", flush=True)


def scored(tasks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Entries of a result that have scores: those that were skipped have none."""
    return [task for task in tasks if "skipped" not in task]


def is_as_merged(path: Path, said: Mapping[str, Any]) -> bool:
    """Whether a bundle is the one that its merge said this of; older notes have no hash."""
    return "sha256" not in said or bool(said["sha256"] == file_hash(path))


def _before(out: Path) -> dict[str, Any]:
    """The result that is to go on, but for tasks that were skipped, which are scored again."""
    before: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    return before and {**before, "tasks": scored(before.get("tasks", ()))}


def _refuse_changed(made: Sequence[tuple[Path, Any]]) -> None:
    """SystemExit where another run has written over a bundle: its merge said something else."""
    for path, said in made:
        if not is_as_merged(path, said):
            raise SystemExit(f"{path.name} is not what was merged here: another run wrote it")


def _factors(compared: Compared, name: str) -> dict[str, str]:
    """Hashes of a task's factors, by bundle."""
    sets = compared.sets(name)
    return {label: factors_key(sets[label])[:_DIGITS] for label in compared.bundles}


def _taken(
    files: Sequence[Path],
    now: Mapping[str, Any],
    compared: Compared,
    request: EvaluationRequest,
    folder: Path,
    wanted: Collection[str],
) -> Iterator[dict[str, Any]]:
    """Entries of other results for today's bundles, of the wanted tasks that each of these gives
    the factors of a bundle which was scored there. The result says which these are, or that bundle
    still lies in ``folder``."""
    others = [_Other.of(file, now, compared, request, folder) for file in files]
    for name in (x for x in compared.adapters if x in wanted):
        mine = _factors(compared, name)
        told: dict[str, Any] = {}
        first: dict[str, Any] | None = None
        took = []
        for other in others:
            task = other.tasks.get(name)
            if task is None:
                continue
            beside = {k: x for k, x in task["results"].items() if k not in other.bundles}
            first = first or {**task, "results": beside}
            if (task["sha256"], beside) != (first["sha256"], first["results"]):
                continue
            theirs = task.get("factors") or _factors(other.compared, name)
            told |= {value: task["results"][label] for label, value in theirs.items()}
            took.append(other.name)
        if first is not None and told.keys() >= set(mine.values()):
            print(f"{name}: taken from {', '.join(took)}", flush=True)
            results = {label: told[value] for label, value in mine.items()}
            yield {**first, "results": {**first["results"], **results}, "factors": mine}


@dataclass(frozen=True)
class _Other:
    """Another result. tasks: of today's rows, by adapter. bundles: labels of all that it scored.
    compared: those of them that still lie there."""

    name: str
    tasks: Mapping[str, Mapping[str, Any]]
    bundles: Collection[str]
    compared: Compared

    @classmethod
    def of(
        cls,
        file: Path,
        now: Mapping[str, Any],
        compared: Compared,
        request: EvaluationRequest,
        folder: Path,
    ) -> _Other:
        other = json.loads(file.read_text())
        about = other["limits"]["rows"], other["products"], other["split"], other["adapters"]
        if about != (now["rows"], now["products"], request.split, now["adapters"]):
            raise SystemExit(f"{file.name} has other rows, products or adapters: nothing to take")
        found = {}
        for label, said in other["bundles"].items():
            if (folder / label).is_file() and file_hash(folder / label) == said["sha256"]:
                found[label] = open_bundle(folder / label)
        tasks = {task["adapter"]: task for task in other["tasks"] if _is_of(request, task)}
        return cls(file.name, tasks, other["bundles"], replace(compared, bundles=found))


def _is_of(request: EvaluationRequest, task: Mapping[str, Any]) -> bool:
    """Whether a task was scored on the rows that are asked for."""
    assert request.tasks is not None
    asked = read_task_file(request.tasks, task["task"], task["language"], request.split)
    return bool(asked.sha256 == task["sha256"])


def _refuse_other_rows(name: str, before: Mapping[str, Any], request: EvaluationRequest) -> None:
    """SystemExit where a result that is to go on is of other task files, or of other lengths."""
    if before and before["limits"].get("tokens") != request.tokens:
        raise SystemExit(f"{name} was made with rows of other lengths; remove it first")
    for task in before.get("tasks", ()):
        assert request.tasks is not None
        file = read_task_file(request.tasks, task["task"], task["language"], request.split)
        if file.sha256 != task["sha256"]:
            raise SystemExit(
                f"{name} was scored on other rows of {task['adapter']} than {request.tasks} has; "
                "remove it first"
            )


def _refuse_others(
    name: str, before: Mapping[str, Any], now: Mapping[str, Any], compared: Compared
) -> None:
    """SystemExit where a result that is to go on is of something else than today's.

    before: the result; empty if there is none. now: its rows, products, methods, adapters and
    bundles today.
    """
    if not before:
        return
    if (before["limits"]["rows"], before["products"]) != (now["rows"], now["products"]):
        raise SystemExit(f"{name} was made with other rows or products; remove it first")
    if before["methods"].keys() != now["methods"].keys():
        raise SystemExit(f"{name} holds other methods; remove it first")
    if before["adapters"] != now["adapters"]:
        raise SystemExit(f"{name} is of other adapters than today's; remove it first")
    if before["bundles"] == now["bundles"]:
        return
    for task in before["tasks"]:
        # A refit of another task, say, leaves the factors of this one as they were.
        if task.get("factors") != _factors(compared, task["adapter"]):
            raise SystemExit(
                f"{name} is of other bundles than today's, which differ in {task['adapter']}; "
                "remove it first"
            )
