"""``hydraopt eval``: adapters and bundles, task by task, against the originals and the base."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hydraopt.basemodel.loading import files_of
from hydraopt.basemodel.memory import JsonCache
from hydraopt.basemodel.model import check_logits, factors_key, load_classifier, load_model
from hydraopt.basemodel.products import products_of
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.classify import encode_texts, labels_in, run_classification
from hydraopt.evaluate.compared import BASE, ORIGINAL, Compared, bundles_of, read_compared
from hydraopt.evaluate.context import context_of
from hydraopt.evaluate.people import People
from hydraopt.evaluate.provenance import versions, weights_hash
from hydraopt.evaluate.results import (
    BaseIdentity,
    Evaluation,
    Hardware,
    TaskResult,
    kept_answers,
    task_result,
)
from hydraopt.evaluate.run import Scores, TaskRows, encode_task, run_task
from hydraopt.evaluate.skipped import NoNumbersError, check_scores
from hydraopt.evaluate.taskfile import TaskFile, TaskName, named_task, read_task_file
from hydraopt.evaluate.unfinished import Unfinished, base_files
from hydraopt.jsonvalues import to_json
from hydraopt.probes.reading import ProbeSet, read_probes
from hydraopt.progress import Progress
from hydraopt.threads import cores
from hydraopt.values import closest, listed

__all__ = [
    "BASE",
    "ORIGINAL",
    "Compared",
    "EvaluationRequest",
    "bundles_of",
    "evaluate",
    "read_compared",
]

_PACKAGES = ("hydraopt", "numpy", "torch", "transformers", "sacrebleu", "nltk", "rouge-score")


@dataclass(frozen=True)
class EvaluationRequest:
    """Settings of an evaluation.

    tasks, task_of: folder of task folders; adapter name to "TASK/LANGUAGE", where its name or
        score.json does not give it.
    rows: maximum number of rows per task, and of items per probe. tokens: of a row. None for no
        limit.
    write, write_base: whether to generate answers for metrics that need them, also the base's.
    with_base: whether the base is scored beside adapters that are not classifiers.
    products: "float32", or "bfloat16" to round the inputs of matrix products, which is faster where
        the processor supports it; all else is in float32.
    seed, only: seed of the bootstrap; adapters to score, all if empty.
    answers: rows per task whose generated answers the result stores.
    probes: files and folders of probes.
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


def evaluate(
    compared: Compared,
    request: EvaluationRequest,
    progress: Progress | None = None,
    done: Collection[str] = (),
    keep: Callable[[Evaluation], None] | None = None,
    save: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """Score adapters and bundles, task by task.

    done: names of adapters to leave out.
    keep: called with the result so far after every task, to save it. save: called with the whole
        result, before what was measured is forgotten.

    An evaluation that was interrupted continues where it was (hydraopt.evaluate.unfinished).
    """
    started = time.monotonic()
    compared.check()
    probes = read_probes(request.probes, request.rows) if request.probes else None
    tasks = {x: y for x, y in _task_files(compared, request).items() if x not in done}
    head, results = _head(compared, request), list[TaskResult]()
    models = _Models(request.base)
    people = People(compared, models.get, request.base, probes, request.products)
    scorer = _Scorer(compared, request, models, progress)
    begun = _unfinished(head, request, probes)

    def result() -> Evaluation:
        return replace(head, tasks=tuple(results), seconds=round(time.monotonic() - started, 1))

    with products_of(request.products):
        head = replace(head, probes=people.asked(list(tasks), progress))
        for name, task in tasks.items():
            about = _about(compared, name, task)
            one = begun.entry(about) if begun else None
            if one is None:
                one = scorer.result(name, task, begun.task(about) if begun else None)
                one = people.add(one, progress)
                if begun:
                    begun.finish(about, one)
            results.append(one)
            if keep:
                keep(result())
    whole = result()
    if save:
        save(whole)
    if begun:
        begun.forget()
    return whole


def _unfinished(
    head: Evaluation, request: EvaluationRequest, probes: ProbeSet | None
) -> Unfinished | None:
    """Return the store of this request's interrupted evaluation; None without the base's hash."""
    if head.base.sha256 is None:
        return None
    asked = {one.name: str(getattr(request, one.name)) for one in fields(request)}
    sources = to_json(probes.sources) if probes else None
    folder = files_of(request.base)
    base = base_files(folder) if folder else []
    return Unfinished({**to_json(head), "asked": asked, "probes": sources, "base_files": base})


def _about(compared: Compared, name: str, task: TaskFile | None) -> list[str]:
    """Return all that a task's result depends on, beside the request.

    That is the adapter's name, its rows and instruction, and the factors of other methods.
    """
    rows = [] if task is None else [str(replace(task, rows=())), str(len(task.rows))]
    others = [
        f"{label} {factors_key(made[name])}"
        for label, made in compared.others.items()
        if name in made
    ]
    return [name, *rows, *others]


class _Models:
    """Base as a language model, or as a classifier of some labels: the last one is kept."""

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


@dataclass(frozen=True)
class _Scorer:
    """Scores of one adapter after another."""

    compared: Compared
    request: EvaluationRequest
    models: _Models
    progress: Progress | None

    def result(self, name: str, task: TaskFile | None, known: JsonCache | None) -> TaskResult:
        """Return the adapter's result, without scores if none are asked for.

        If logits are not finite there are none either, and ``skipped`` gives the reason.
        known: cache of what was measured before an interruption.
        """
        if task is None:
            return TaskResult(name)
        bare = TaskResult(name, task.name, task.language)
        heads = self.compared.classifies(name)
        try:
            rows, scores = (
                self._classified(name, task) if heads else self._written(name, task, known)
            )
            check_scores(scores)
        except NoNumbersError as error:
            return replace(bare, skipped=str(NoNumbersError(error.sources, name)))
        result = task_result(name, rows, scores, self.request.seed, heads)
        if self.request.answers is None:
            return result
        return replace(result, answers=kept_answers(rows, scores, self.request.answers))

    def _written(
        self, name: str, task: TaskFile, known: JsonCache | None
    ) -> tuple[TaskRows, dict[str, Scores]]:
        request = self.request
        model, tokenizer = self.models.get(None)
        rows = encode_task(task, tokenizer, request.rows, request.tokens, context_of(model))
        sets = self.compared.sets(name)
        if not request.with_base:
            del sets[BASE]
        changes = [label for label in sets if label != BASE]
        return rows, run_task(
            model,
            tokenizer,
            rows,
            sets,
            ORIGINAL if ORIGINAL in sets else None,
            write=([*sets] if request.write_base else changes) if request.write else False,
            progress=self.progress,
            changes=changes,
            texts=request.answers is not None,
            known=known,
        )

    def _classified(self, name: str, task: TaskFile) -> tuple[TaskRows, dict[str, Scores]]:
        sets = self.compared.classifiers(name)
        labels = labels_in(name, next(iter(sets.values())).saved)
        model, tokenizer = self.models.get(labels)
        limits = self.request.rows, self.request.tokens, context_of(model)
        rows = encode_texts(task, tokenizer, labels, *limits)
        reference = ORIGINAL if ORIGINAL in sets else None
        return rows, run_classification(model, rows, sets, reference, self.progress)


def _task_files(compared: Compared, request: EvaluationRequest) -> dict[str, TaskFile | None]:
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


def _rows_of(adapter: str, task: TaskName, request: EvaluationRequest) -> TaskFile:
    """Return the rows of an adapter's task; an error states where the task's name is from."""
    assert request.tasks is not None
    try:
        return read_task_file(request.tasks, task.name, task.language, request.split)
    except UsageError as error:
        raise UsageError(
            f"{error} The task {task.name}/{task.language} of adapter {adapter} is from "
            f"{task.source}; --task {adapter}=TASK/LANGUAGE sets another."
        ) from error


def _head(compared: Compared, request: EvaluationRequest) -> Evaluation:
    """Return the result without tasks."""
    folder = files_of(request.base)
    return Evaluation(
        base=BaseIdentity(Path(request.base).name, weights_hash(folder) if folder else None),
        bundles=bundles_of(compared),
        adapters={name: adapter.content_hash() for name, adapter in compared.adapters.items()},
        fp16_bytes=2 * sum(adapter.numbers for adapter in compared.adapters.values()),
        split=request.split,
        limits={"rows": request.rows, "tokens": request.tokens},
        products=request.products,
        seed=request.seed,
        versions=versions(_PACKAGES),
        hardware=Hardware(platform.machine(), cores()),
    )
