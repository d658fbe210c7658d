"""Score adapters and bundles task by task, against the originals and the base model."""

from __future__ import annotations

import functools
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from hydraopt.codec import cores
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.classify import encode_texts, labels_in, run_classification
from hydraopt.evaluate.probes import Preferences, Probe, encoded, probe_measures, read_probes
from hydraopt.evaluate.results import (
    BASE,
    ORIGINAL,
    BaseIdentity,
    Compared,
    Evaluation,
    Hardware,
    ProbeResults,
    ProbesAsked,
    Skipped,
    TaskResult,
    bundles_of,
    kept_answers,
    task_result,
)
from hydraopt.evaluate.scores import (
    Scores,
    TaskRows,
    check_finite,
    check_scores,
    encode_task,
    run_task,
)
from hydraopt.evaluate.tasks import TaskFile, TaskName, named_task, read_task_file
from hydraopt.files import cache_root, from_json, to_json
from hydraopt.model import (
    JsonCache,
    NotFiniteError,
    TaskFactors,
    base_hash,
    check_logits,
    factors_key,
    key_of,
    likelihoods,
    load_model,
    place,
    positions_of,
    products_of,
)
from hydraopt.notes import closest, listed
from hydraopt.progress import Progress, silent
from hydraopt.version import __version__, source_hash

_PACKAGES: Final = ("numpy", "torch", "transformers", "sacrebleu", "nltk", "rouge-score")
_DECIDE: Final = ("codec", "evaluate", "model")
"""Packages whose code determines the result of a request."""
_NO_TEXTS: Final = "a classifier with a head has no likelihoods of texts"


@dataclass(frozen=True)
class EvaluationRequest:
    """Settings of an evaluation.

    base: folder or OWNER/NAME of the base model.
    tasks: folder of task folders; None for probes alone.
    task_of: "TASK/LANGUAGE" by adapter, where its name or score.json does not give it.
    split: name of the JSONL files of tasks.
    rows: maximum number of rows per task, and of items per probe. None for no limit.
    tokens: maximum number of tokens of a row. None for no limit.
    write: whether to generate answers for metrics that need them.
    products: "float32", or "bfloat16" to round the inputs of matrix products, which is faster where
        the processor supports it; all else is in float32.
    seed: seed of the bootstrap.
    only: adapters to score, all if empty.
    answers: number of rows per task whose generated answers the result stores.
    probes: files and folders of probes.
    """

    base: str
    tasks: Path | None
    task_of: Mapping[str, str] = field(default_factory=dict)
    split: str = "test"
    rows: int | None = None
    tokens: int | None = None
    write: bool = True
    products: str = "float32"
    seed: int = 0
    only: Sequence[str] = ()
    answers: int | None = None
    probes: Sequence[str] = ()


def evaluate(
    compared: Compared,
    request: EvaluationRequest,
    progress: Progress | None = None,
    keep: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """Score adapters and bundles, task by task.

    keep: called with the result so far after every task, to save it.

    The result of each task is cached on disk, so an interrupted evaluation continues where it was.
    """
    started = time.monotonic()
    compared.check()
    probes = read_probes(request.probes, request.rows)
    tasks = _task_files(compared, request)
    head, results = _head(compared, request), list[TaskResult]()
    scorer = _Scorer(compared, request, probes, head, progress)

    def result() -> Evaluation:
        return replace(head, tasks=tuple(results), seconds=round(time.monotonic() - started, 1))

    with products_of(request.products):
        if probes:
            head = replace(head, probes=scorer.asked(list(tasks)))
        for name, task in tasks.items():
            results.append(scorer.result(name, task))
            if keep:
                keep(result())
    return result()


class _Scorer:
    """Results of one adapter after another, cached on disk.

    The key of an entry covers everything that a result depends on: the source code, the libraries,
    the base, the request, the task's rows, and the factors and heads of every source.
    """

    def __init__(
        self,
        compared: Compared,
        request: EvaluationRequest,
        probes: Mapping[str, Probe],
        head: Evaluation,
        progress: Progress | None,
    ) -> None:
        self.compared, self.request, self.progress = compared, request, progress
        self._labels: int | None = None
        self._loaded: tuple[Any, Any] | None = None
        self._probes = probes
        base, hashes = head.base.sha256, {name: probe.sha256 for name, probe in probes.items()}
        self._memory = JsonCache(cache_root() / "eval" if base else None)
        plain = replace(request, base="", tasks=None, task_of={}, split="", only=(), probes=())
        settings = [to_json(x) for x in (head.versions, head.hardware, plain, hashes)]
        self._about = [source_hash(*_DECIDE), str(base), json.dumps(settings)]

    def _model(self, labels: int | None) -> tuple[Any, Any]:
        """Return (model, tokenizer); only the last model stays in memory.

        labels: number of labels of a classifier; None for the language model.
        """
        if self._loaded is None or labels != self._labels:
            self._loaded = None  # before the next takes memory
            self._loaded, self._labels = load_model(self.request.base, labels=labels), labels
            if labels is None:
                check_logits(self._loaded[0])
        return self._loaded

    def asked(self, names: Sequence[str]) -> ProbesAsked:
        """Return the probes, and the base's preferences.

        names: adapters of the result. If none of them can be measured, neither is the base.
        """
        nobody = all(map(self.compared.classifies, names))
        return ProbesAsked(
            {name: len(probe.items) for name, probe in self._probes.items()},
            {name: probe.sha256 for name, probe in self._probes.items()},
            {} if nobody else self._preferences({BASE: {}}, None)[BASE],
            _NO_TEXTS if nobody else None,
        )

    def result(self, name: str, task: TaskFile | None) -> TaskResult:
        """Return the adapter's result: scores if there is a task, preferences if there are probes.

        If logits are not finite there are none, and ``skipped`` gives the reason.
        """

        def measure() -> Any:
            result = TaskResult(name) if task is None else self._scored(name, task)
            return to_json(replace(result, probes=self._probed(name)) if self._probes else result)

        return from_json(TaskResult, self._memory.recall(self._key(name, task), measure))

    def _key(self, name: str, task: TaskFile | None) -> str:
        heads = self.compared.classifiers(name) if self.compared.classifies(name) else {}
        return key_of(
            [
                *self._about,
                name,
                *([] if task is None else [str(replace(task, rows=()))]),
                *(f"{x} {factors_key(y)}" for x, y in self.compared.sets(name).items()),
                *(
                    part
                    for label, one in heads.items()
                    for path, x in sorted(one.saved.items())
                    for part in (f"{label} {path} {x.shape}", x.tobytes())
                ),
            ]
        )

    def _probed(self, name: str) -> ProbeResults | Skipped:
        if self.compared.classifies(name):
            return Skipped(_NO_TEXTS)
        sets = {x: y for x, y in self.compared.sets(name).items() if x != BASE}
        reference = ORIGINAL if ORIGINAL in sets else None
        try:
            by_set = self._preferences(sets, reference)
        except NotFiniteError as error:
            return Skipped(str(error))
        return {
            probe: {label: held[probe] for label, held in by_set.items()} for probe in self._probes
        }

    def _preferences(
        self, sets: Mapping[str, TaskFactors], reference: str | None
    ) -> dict[str, Preferences]:
        """Return the preferences by set, probe and group, with changes from the reference.

        Raises UsageError for a text longer than the model's context, and NotFiniteError for logits
        that are not finite.
        """
        model, tokenizer = self._model(None)
        probes = {name: probe.items for name, probe in self._probes.items()}
        sides = [encoded(item, tokenizer) for items in probes.values() for item in items]
        texts = [text for item in sides for text in item]
        longest, most = max(map(len, texts), default=0), positions_of(model)
        if most is not None and longest > most:
            raise UsageError(
                explain(
                    "a text is longer than the base model reads",
                    got=f"{longest} tokens",
                    expected=f"at most {most}",
                    do="Shorten the items of the probe, or leave them out",
                )
            )
        ends = np.cumsum([len(item) for item in sides])[:-1]
        scores = {}
        for label, factors in sets.items():
            report = functools.partial(self.progress or silent, f"probes of {label}")
            found = likelihoods(model, texts, place(model, factors), report)
            check_finite({label: [found]})
            items = iter(np.split(found, ends))
            scores[label] = {probe: [next(items) for _ in mine] for probe, mine in probes.items()}
        known = scores.get(reference) if reference is not None else None
        return {
            label: probe_measures(probes, scores[label], None if label == reference else known)
            for label in sets
        }

    def _scored(self, name: str, task: TaskFile) -> TaskResult:
        heads = self.compared.classifies(name)
        try:
            rows, scores = (self._classified if heads else self._written)(name, task)
            check_scores(scores)
        except NotFiniteError as error:
            return TaskResult(name, task.name, task.language, skipped=str(error))
        result = task_result(name, rows, scores, self.request.seed)
        if self.request.answers is None:
            return result
        return replace(result, answers=kept_answers(rows, scores, self.request.answers))

    def _written(self, name: str, task: TaskFile) -> tuple[TaskRows, dict[str, Scores]]:
        request = self.request
        model, tokenizer = self._model(None)
        rows = encode_task(task, tokenizer, request.rows, request.tokens, positions_of(model))
        sets = self.compared.sets(name)
        return rows, run_task(
            model,
            tokenizer,
            rows,
            sets,
            ORIGINAL if ORIGINAL in sets else None,
            write=request.write,
            progress=self.progress,
            texts=request.answers is not None,
        )

    def _classified(self, name: str, task: TaskFile) -> tuple[TaskRows, dict[str, Scores]]:
        sets = self.compared.classifiers(name)
        labels = labels_in(name, next(iter(sets.values())).saved)
        model, tokenizer = self._model(labels)
        limits = self.request.rows, self.request.tokens, positions_of(model)
        rows = encode_texts(task, tokenizer, labels, *limits)
        reference = ORIGINAL if ORIGINAL in sets else None
        return rows, run_classification(model, rows, sets, reference, self.progress)


def _task_files(compared: Compared, request: EvaluationRequest) -> dict[str, TaskFile | None]:
    """Return the rows of every adapter, by its name; None where no tasks were given."""
    names = compared.names()
    for requested, what in (
        (request.task_of, "a task is named"),
        (request.only, "scores are wanted"),
    ):
        unknown = sorted(set(requested) - set(names))
        if unknown:
            raise UsageError(
                explain(
                    f"{what} for an adapter that was not found",
                    got=listed(unknown),
                    expected=closest(unknown, names),
                )
            )
    chosen = [name for name in names if name in request.only or not request.only]
    wanted: dict[str, TaskFile | None] = dict.fromkeys(chosen)
    for adapter in chosen if request.tasks is not None else ():
        assert request.tasks is not None
        if (option := request.task_of.get(adapter)) is not None:
            if option.count("/") != 1:
                expected = "TASK/LANGUAGE"
                raise UsageError(explain("cannot read the task", got=option, expected=expected))
            name, _, language = option.partition("/")
            task = TaskName(name, language, "--task")
        else:
            task = named_task(adapter, compared.folders.get(adapter), request.tasks)
        try:
            wanted[adapter] = read_task_file(request.tasks, task.name, task.language, request.split)
        except UsageError as error:
            raise UsageError(
                f"{error} The task {task.name}/{task.language} of adapter {adapter} is from "
                f"{task.source}; --task {adapter}=TASK/LANGUAGE sets another."
            ) from error
    return wanted


def _head(compared: Compared, request: EvaluationRequest) -> Evaluation:
    """Return the result without tasks."""
    return Evaluation(
        base=BaseIdentity(Path(request.base).name, base_hash(request.base)),
        bundles=bundles_of(compared),
        adapters={name: adapter.content_hash() for name, adapter in compared.adapters.items()},
        fp16_bytes=2 * sum(adapter.numbers for adapter in compared.adapters.values()),
        split=request.split,
        limits={"rows": request.rows, "tokens": request.tokens},
        products=request.products,
        seed=request.seed,
        versions={
            "python": platform.python_version(),
            "hydraopt": __version__,
            **{x: version(x) for x in _PACKAGES},
        },
        hardware=Hardware(platform.machine(), cores()),
    )
