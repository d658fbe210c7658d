"""``hydraopt eval``: adapters and bundles, task by task, against the originals and the base."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hydraopt.basemodel.loading import files_of
from hydraopt.basemodel.model import check_logits, factors_key, load_classifier, load_model
from hydraopt.basemodel.products import products_of
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.answers import answer_rows
from hydraopt.evaluate.classify import encode_texts, labels_in, run_classification
from hydraopt.evaluate.compared import BASE, ORIGINAL, Compared, bundles_of, read_compared
from hydraopt.evaluate.context import context_of
from hydraopt.evaluate.people import People
from hydraopt.evaluate.provenance import versions, weights_hash
from hydraopt.evaluate.run import Scores, TaskRows, encode_task, run_task
from hydraopt.evaluate.skipped import NoNumbersError, no_numbers, of_scores
from hydraopt.evaluate.taskfile import TaskFile, TaskName, named_task, read_task_file
from hydraopt.evaluate.unfinished import Kept, Unfinished, base_files
from hydraopt.probes.reading import ProbeSet, read_probes
from hydraopt.progress import Progress
from hydraopt.threads import cores
from hydraopt.values import closest, listed

__all__ = [
    "BASE",
    "ORIGINAL",
    "SCHEMA",
    "Compared",
    "Request",
    "bundles_of",
    "evaluate",
    "read_compared",
    "task_result",
]

SCHEMA = "hydraopt.eval/1"
_PACKAGES = ("hydraopt", "numpy", "torch", "transformers", "sacrebleu", "nltk", "rouge-score")


@dataclass(frozen=True)
class Request:
    """Settings of an evaluation.

    tasks, task_of: folder of task folders; adapter name to "TASK/LANGUAGE", where its name or
        score.json does not give it.
    rows, tokens: limits, None for no limit.
    write, write_base: whether to generate answers for metrics that need them, also the base's.
    with_base: whether the base is scored beside adapters that are not classifiers.
    products: "float32", or "bfloat16" to round the inputs of matrix products, which is faster where
        the processor supports it; all else is in float32.
    seed, only: seed of the bootstrap; adapters to score, all if empty.
    answers: rows per task whose generated answers the result stores.
    probes, swaps: files and folders of probes; whether to swap identities in classified rows.
    people: maximum number of items per probe, and of rows per kind of swap.
    score: whether tasks are scored at all; always false without tasks.
    """

    base: str
    tasks: Path | None
    task_of: Mapping[str, str] = field(default_factory=dict)
    split: str = "test"
    rows: int | None = None
    tokens: int | None = None
    write: bool = True
    write_base: bool = True
    with_base: bool = True
    products: str = "float32"
    seed: int = 0
    only: Sequence[str] = ()
    answers: int | None = None
    probes: Sequence[str] = ()
    swaps: bool = False
    people: int | None = None
    score: bool = True


def evaluate(
    compared: Compared,
    request: Request,
    progress: Progress | None = None,
    known: Sequence[Mapping[str, Any]] = (),
    keep: Callable[[dict[str, Any]], None] | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Everything that was measured, ready for JSON (schema hydraopt.eval/1).

    docs/reference/evaluation.md says what each field holds.

    known: entries of ``tasks`` that an earlier call with the same request made; they are not
    measured again. keep: called with the result so far after every task, to save it; save: called
    with the whole, before what was measured is forgotten. An earlier call that was stopped had
    measured something (hydraopt.evaluate.unfinished): this one goes on there.
    """
    started = time.monotonic()
    compared.check()
    probes = read_probes(request.probes, request.people) if request.probes else None
    wanted = _task_files(compared, request)
    tasks = {str(task["adapter"]): dict(task) for task in known if task["adapter"] in wanted}
    head = _head(compared, request)

    def result() -> dict[str, Any]:
        ordered = [tasks[name] for name in wanted if name in tasks]
        return {**head, "tasks": ordered, "seconds": round(time.monotonic() - started, 1)}

    models = _Models(request.base)
    people = _people(compared, request, models, probes)
    begun = _unfinished(head, request, probes)
    with products_of(request.products):
        head |= people.head(list(wanted), progress)
        for name in [name for name in wanted if name not in tasks]:
            about = _about(compared, name, wanted[name])
            entry = begun.entry(about) if begun else None
            if entry is None:
                kept = begun.task(about) if begun else None
                entry = _entry(models, compared, name, wanted[name], request, progress, kept)
                entry |= people.of_task(name, wanted[name], progress)
                if begun:
                    begun.finish(about, entry)
            tasks[name] = entry
            if keep:
                keep(result())
    made = result()
    if save:
        save(made)
    if begun:
        begun.forget()
    return made


def _unfinished(
    head: Mapping[str, Any], request: Request, probes: ProbeSet | None
) -> Unfinished | None:
    """Return the store of this request's interrupted evaluation; None without the base's hash."""
    if head["base"]["sha256"] is None:
        return None
    asked = {key: str(value) for key, value in asdict(request).items()}
    sources = probes and probes.sources
    folder = files_of(request.base)
    base = base_files(folder) if folder else []
    return Unfinished({**head, "asked": asked, "probes": sources, "base_files": base})


def _about(compared: Compared, name: str, task: TaskFile | None) -> list[str]:
    """Return all that an entry depends on, beside the request: the adapter's name, its rows and how
    they are asked, and what others made of it."""
    rows = [] if task is None else [str(replace(task, rows=())), str(len(task.rows))]
    others = [
        f"{label} {factors_key(made[name])}"
        for label, made in compared.others.items()
        if name in made
    ]
    return [name, *rows, *others]


def _people(
    compared: Compared, request: Request, models: _Models, probes: ProbeSet | None
) -> People:
    return People(
        compared,
        models.get,
        request.base,
        probes,
        request.swaps,
        request.people,
        request.products,
        request.seed,
    )


def _entry(
    models: _Models,
    compared: Compared,
    name: str,
    task: TaskFile | None,
    request: Request,
    progress: Progress | None,
    known: Kept | None,
) -> dict[str, Any]:
    """Return the adapter's entry of ``tasks``, without results if there are no scores.

    If logits are not finite there are none either, and "skipped" gives the reason.
    """
    if task is None:
        return {"adapter": name, "results": {}}
    bare = {"adapter": name, "task": task.name, "language": task.language, "results": {}}
    if not request.score:
        return bare
    asked = models, compared, name, task, request, progress
    try:
        heads = compared.classifies(name)
        rows, scores = _classified(*asked) if heads else _written(*asked, known)
    except NoNumbersError as error:
        return {**bare, "skipped": no_numbers(name, error.labels)}
    why = of_scores(name, scores)
    if why is not None:
        return {**bare, "skipped": why}
    entry = {"adapter": name, **task_result(rows, scores, request.seed, heads)}
    if request.answers is not None:
        entry["answers"] = answer_rows(rows, scores, request.answers)
    return entry


class _Models:
    """The base as a language model, or as a classifier of some labels: the last one is kept."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._labels: int | None = None
        self._loaded: tuple[Any, Any] | None = None

    def get(self, labels: int | None) -> tuple[Any, Any]:
        """Return (model, tokenizer); None is the language model."""
        if self._loaded is None or labels != self._labels:
            self._loaded = None  # before the next takes memory
            load = load_model if labels is None else lambda base: load_classifier(base, labels)
            self._loaded, self._labels = load(self._base), labels
            if labels is None:
                check_logits(self._loaded[0])
        return self._loaded


def _written(
    models: _Models,
    compared: Compared,
    name: str,
    task: TaskFile,
    request: Request,
    progress: Progress | None,
    known: Kept | None,
) -> tuple[TaskRows, dict[str, Scores]]:
    model, tokenizer = models.get(None)
    rows = encode_task(task, tokenizer, request.rows, request.tokens, context_of(model))
    sets = compared.sets(name)
    if not request.with_base:
        del sets[BASE]
    reference = ORIGINAL if ORIGINAL in sets else None
    written = [label for label in sets if label != BASE or request.write_base]
    write = written if request.write else False
    changes = [label for label in sets if label != BASE]
    texts = request.answers is not None
    made = run_task(model, tokenizer, rows, sets, reference, write, progress, changes, texts, known)
    return rows, made


def _classified(
    models: _Models,
    compared: Compared,
    name: str,
    task: TaskFile,
    request: Request,
    progress: Progress | None,
) -> tuple[TaskRows, dict[str, Scores]]:
    sets = compared.classifiers(name)
    labels = labels_in(name, next(iter(sets.values())).saved)
    model, tokenizer = models.get(labels)
    context = context_of(model)
    rows = encode_texts(task, tokenizer, labels, request.rows, request.tokens, context)
    reference = ORIGINAL if ORIGINAL in sets else None
    return rows, run_classification(model, rows, sets, reference, progress)


def _task_files(compared: Compared, request: Request) -> dict[str, TaskFile | None]:
    """Return the rows of every adapter, by its name; None where no tasks were given."""
    names = compared.names()
    for asked, what in ((request.task_of, "a task is named"), (request.only, "scores are wanted")):
        unknown = sorted(set(asked) - set(names))
        if unknown:
            raise UsageError(
                explain(
                    f"{what} for an adapter that was not found",
                    got=listed(unknown),
                    expected=closest(unknown, names),
                )
            )
    chosen = [name for name in names if name in request.only or not request.only]
    if request.tasks is None:
        return dict.fromkeys(chosen)
    wanted: dict[str, TaskFile | None] = {}
    for name in chosen:
        said = request.task_of.get(name)
        if said is not None and said.count("/") != 1:
            raise UsageError(explain("cannot read the task", got=said, expected="TASK/LANGUAGE"))
        if said is not None:
            task, _, language = said.partition("/")
            wanted[name] = _rows_of(name, TaskName(task, language, "--task"), request)
        else:
            stated = named_task(name, compared.folders.get(name), request.tasks)
            wanted[name] = _rows_of(name, stated, request)
    return wanted


def _rows_of(adapter: str, task: TaskName, request: Request) -> TaskFile:
    """Return the rows of an adapter's task; an error states where the task's name is from."""
    assert request.tasks is not None
    try:
        return read_task_file(request.tasks, task.name, task.language, request.split)
    except UsageError as error:
        raise UsageError(
            f"{error} The task {task.name}/{task.language} of adapter {adapter} is from "
            f"{task.source}; --task {adapter}=TASK/LANGUAGE sets another."
        ) from error


def _head(compared: Compared, request: Request) -> dict[str, Any]:
    """Return the fields of the result other than the tasks."""
    folder = files_of(request.base)
    weights = weights_hash(folder) if folder else None
    return {
        "schema": SCHEMA,
        "base": {"name": Path(request.base).name, "sha256": weights},
        "bundles": bundles_of(compared),
        "adapters": {name: adapter.content_hash() for name, adapter in compared.adapters.items()},
        "fp16_bytes": 2 * sum(adapter.numbers for adapter in compared.adapters.values()),
        "split": request.split,
        "limits": {
            "rows": request.rows,
            "tokens": request.tokens,
            **({"probe_items": request.people} if request.probes or request.swaps else {}),
        },
        "products": request.products,
        "seed": request.seed,
        "versions": versions(_PACKAGES),
        "hardware": {"machine": platform.machine(), "cores": cores()},
    }


def task_result(
    rows: TaskRows, scores: Mapping[str, Scores], seed: int, labels: bool = False
) -> dict[str, Any]:
    """Return the entry of ``tasks`` for these scores. labels: of a classification, which has none
    of the base, which has no head, and says how many labels flip."""
    base, original = scores.get(BASE), scores.get(ORIGINAL)
    gain = base.loss_per_token - original.loss_per_token if base and original else 0.0
    results: dict[str, Any] = {}
    for name, score in scores.items():
        mine: dict[str, Any] = {
            "loss": round(score.loss_per_token, 6),
            "exact": round(100 * float(score.exact.mean()), 3),
            "scores": {
                m.name: round(score.score(m), 4) for m in rows.metrics if m.name in score.numbers
            },
        }
        if original and score is not original:
            mine["kl"] = round(score.divergence_per_token, 8)
            mine["agreement"] = round(score.agreement_percent, 4)
            if labels:
                mine["flips"] = int((1 - score.agreement).sum())
            mine |= _changes(score)
            if base and gain > 0:
                mine["recovery"] = round((base.loss_per_token - score.loss_per_token) / gain, 6)
            changes = {
                m.name: asdict(score.against(original, m, seed))
                for m in rows.metrics
                if m.name in score.numbers
            }
            mine["difference"] = {
                metric: {key: round(value, 4) for key, value in change.items()}
                for metric, change in changes.items()
            }
        results[name] = mine
    return {
        "task": rows.task.name,
        "language": rows.task.language,
        "metric": rows.metrics[0].name,
        "sha256": rows.task.sha256,
        "rows": len(rows.rows),
        "left_out": rows.left_out,
        **_lengths(rows),
        "tokens": int(next(iter(scores.values())).tokens.sum()),
        "results": results,
    }


def _lengths(rows: TaskRows) -> dict[str, Any]:
    """Return why rows were skipped, and how many are overlong; empty if there are none."""
    said: dict[str, Any] = {}
    if rows.reasons:
        said["left_out_why"] = dict(rows.reasons)
    if rows.beyond:
        said["beyond_context"] = rows.beyond
    return said


def _changes(score: Scores) -> dict[str, Any]:
    """Return changes of the original's answers and KL per answer; empty if not measured."""
    if score.changed is None or score.answer_divergence is None:
        return {}
    return {
        "changed": int(score.changed.sum()),
        "changed_pct": round(100 * float(score.changed.mean()), 4),
        "kl_answer": round(float(score.answer_divergence.mean()), 8),
    }
