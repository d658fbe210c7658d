"""``hydraopt eval``: adapters and bundles, task by task, against the originals and the base."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydraopt.adapters import Adapter, Adapters, read_adapters
from hydraopt.adapters.tuners import other_tuner
from hydraopt.basemodel.model import TaskFactors, load_classifier, load_model, products_of
from hydraopt.bundle.kind import is_bundle
from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.answers import answer_rows
from hydraopt.evaluate.classify import (
    Classifier,
    encode_texts,
    is_classifier,
    labels_in,
    run_classification,
    saved_tensors,
)
from hydraopt.evaluate.provenance import versions, weights_hash
from hydraopt.evaluate.run import Scores, TaskRows, encode_task, run_task
from hydraopt.evaluate.taskfile import TaskFile, read_task_file, task_of
from hydraopt.files.url import place_of
from hydraopt.progress import Progress

__all__ = [
    "SCHEMA",
    "Compared",
    "Request",
    "bundles_of",
    "evaluate",
    "products_of",
    "read_compared",
    "task_result",
]

SCHEMA = "hydraopt.eval/1"
BASE = "base"
ORIGINAL = "original"
_PACKAGES = ("hydraopt", "numpy", "torch", "transformers", "sacrebleu", "scikit-learn")


@dataclass(frozen=True)
class Compared:
    """What is compared: adapters as they are, and bundles, by the name of their file.

    others: what other methods made of the adapters, by label and adapter. notes: of the reading.
    """

    adapters: Mapping[str, Adapter]
    bundles: Mapping[str, Bundle]
    folders: Mapping[str, Path | None] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, TaskFactors]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Every adapter's name, of the originals and of the bundles."""
        names = dict.fromkeys(self.adapters)
        for bundle in self.bundles.values():
            names |= dict.fromkeys(bundle)
        return list(names)

    def check(self) -> None:
        """Raise UsageError for a task that is none of W + B A, or more and no classifier."""
        configs = [(name, adapter.config) for name, adapter in self.adapters.items()]
        for bundle in self.bundles.values():
            configs += [(name, bundle[name].config) for name in bundle]
        for name, config in configs:
            tuner = other_tuner(config)
            if tuner is not None:
                raise _other_tuner(name, tuner)
        extras: list[tuple[str, list[str]]] = [
            (name, sorted(adapter.extras)) for name, adapter in self.adapters.items()
        ]
        for bundle in self.bundles.values():
            extras += [(name, sorted(bundle[name].extra_kinds)) for name in bundle]
        for name, keys in extras:
            if keys and not self.classifies(name):
                raise _more_than_factors(name, keys)

    def classifies(self, name: str) -> bool:
        """Whether the adapter of that name classifies sequences, with a head of its own."""
        configs = [self.adapters[name].config] if name in self.adapters else []
        configs += [bundle[name].config for bundle in self.bundles.values() if name in bundle]
        return any(map(is_classifier, configs))

    def classifiers(self, name: str) -> dict[str, Classifier]:
        """The classifiers called ``name``: the original's, each bundle's. The base has no head."""
        sources: dict[str, Any] = {ORIGINAL: self.adapters[name]} if name in self.adapters else {}
        sources |= {label: x[name] for label, x in self.bundles.items() if name in x}
        factors = self.sets(name)
        return {
            label: Classifier(factors[label], saved_tensors(name, x.extras, x.extra_kinds))
            for label, x in sources.items()
        }

    def sets(self, name: str) -> dict[str, TaskFactors]:
        """The factors called ``name``: the base's (none), the original's, each bundle's."""
        by_label: dict[str, TaskFactors] = {BASE: {}}
        if name in self.adapters:
            modules = self.adapters[name].modules
            by_label[ORIGINAL] = {path: x.factors() for path, x in modules.items()}
        for label, bundle in self.bundles.items():
            if name in bundle:
                by_label[label] = {p: (f.B, f.A) for p, f in bundle[name].factors().items()}
        for label, made in self.others.items():
            if name in made:
                by_label[label] = dict(made[name])
        return by_label


def _other_tuner(name: str, tuner: str) -> UsageError:
    return UsageError(
        explain(
            f"adapter {name} is of the tuner {tuner}",
            expected="LoRA pairs of linear modules alone",
            do="Export it and score it with PEFT",
        )
    )


def _more_than_factors(name: str, keys: Sequence[str]) -> UsageError:
    return UsageError(
        explain(
            f"adapter {name} is more than low-rank factors",
            got=f"{len(keys)} further tensors, {keys[0]} among them",
            expected="LoRA pairs of linear modules alone, or a classifier with its head",
            do="Export it and score it with PEFT",
        )
    )


def read_compared(
    paths: Sequence[str], same_base: bool = False, base: str | None = None
) -> Compared:
    """Adapters and bundles among ``paths``, told apart by content. Raises HydraoptError."""
    bundles = [path for path in paths if is_bundle(path)]
    others = [path for path in paths if path not in bundles]
    adapters = read_adapters(others, same_base=same_base) if others else Adapters()
    labels = {place_of(path).name: open_bundle(path) for path in bundles}
    for bundle in labels.values():
        bundle.give_base(base)
    if len(labels) != len(bundles):
        raise UsageError(explain("two bundles have one file name", got=", ".join(bundles)))
    for adapter in adapters:
        adapter.check_finite()
    return Compared(
        {adapter.name: adapter for adapter in adapters},
        labels,
        {adapter.name: _folder_of(adapter) for adapter in adapters},
        notes=adapters.notes,
    )


@dataclass(frozen=True)
class Request:
    """How to evaluate. tasks: the folder of task folders. task_of: adapter name to "TASK/LANGUAGE",
    where its name or score.json does not tell. rows, tokens: limits, None for all. write: generate
    answers for metrics that need them; write_base: those of the base too. products: "float32", or
    "bfloat16": matrix products of numbers rounded to bfloat16, all else in float32, which is faster
    where the processor has such products. seed: of the bootstrap. only: adapters to score, all if
    empty. answers: of how many rows of a task the result keeps what was written, if of any."""

    base: str
    tasks: Path
    task_of: Mapping[str, str] = field(default_factory=dict)
    split: str = "test"
    rows: int | None = None
    tokens: int | None = None
    write: bool = True
    write_base: bool = True
    products: str = "float32"
    seed: int = 0
    only: Sequence[str] = ()
    answers: int | None = None


def evaluate(
    compared: Compared,
    request: Request,
    progress: Progress | None = None,
    known: Sequence[Mapping[str, Any]] = (),
    keep: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Everything that was measured, ready for JSON (schema hydraopt.eval/1).

    docs/reference/evaluation.md says what each field holds.

    known: entries of ``tasks`` that an earlier call with the same request made; they are not
    measured again. keep: called with the result so far after every task, to save it.
    """
    started = time.monotonic()
    compared.check()
    wanted = _task_files(compared, request)
    tasks = {str(task["adapter"]): dict(task) for task in known if task["adapter"] in wanted}
    head = _head(compared, request)

    def result() -> dict[str, Any]:
        ordered = [tasks[name] for name in wanted if name in tasks]
        return {**head, "tasks": ordered, "seconds": round(time.monotonic() - started, 1)}

    missing = [name for name in wanted if name not in tasks]
    if missing:
        models = _Models(request.base)
        with products_of(request.products):
            for name in missing:
                scored = _classified if compared.classifies(name) else _written
                rows, scores = scored(models, compared, name, wanted[name], request, progress)
                tasks[name] = {"adapter": name, **task_result(rows, scores, request.seed)}
                if request.answers is not None:
                    tasks[name]["answers"] = answer_rows(rows, scores, request.answers)
                if keep:
                    keep(result())
    return result()


class _Models:
    """The base as a language model, or as a classifier of some labels: the last one is kept."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._labels: int | None = None
        self._loaded: tuple[Any, Any] | None = None

    def get(self, labels: int | None) -> tuple[Any, Any]:
        """(model, tokenizer); None is the language model."""
        if self._loaded is None or labels != self._labels:
            self._loaded = None  # before the next takes memory
            load = load_model if labels is None else lambda base: load_classifier(base, labels)
            self._loaded, self._labels = load(self._base), labels
        return self._loaded


def _written(
    models: _Models,
    compared: Compared,
    name: str,
    task: TaskFile,
    request: Request,
    progress: Progress | None,
) -> tuple[TaskRows, dict[str, Scores]]:
    model, tokenizer = models.get(None)
    rows = encode_task(task, tokenizer, request.rows, request.tokens)
    sets = compared.sets(name)
    reference = ORIGINAL if ORIGINAL in sets else None
    written = [label for label in sets if label != BASE or request.write_base]
    write = written if request.write else False
    changes = [label for label in sets if label != BASE]
    texts = request.answers is not None
    return rows, run_task(model, tokenizer, rows, sets, reference, write, progress, changes, texts)


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
    rows = encode_texts(task, tokenizer, labels, request.rows, request.tokens)
    reference = ORIGINAL if ORIGINAL in sets else None
    return rows, run_classification(model, rows, sets, reference, progress)


def _task_files(compared: Compared, request: Request) -> dict[str, TaskFile]:
    """The rows of every adapter, by its name."""
    names = compared.names()
    for asked, what in ((request.task_of, "a task is named"), (request.only, "scores are wanted")):
        unknown = sorted(set(asked) - set(names))
        if unknown:
            raise UsageError(
                explain(
                    f"{what} for an adapter that is not there",
                    got=", ".join(unknown),
                    expected=", ".join(names),
                )
            )
    wanted = {}
    for name in [name for name in names if name in request.only or not request.only]:
        said = request.task_of.get(name)
        if said is not None and said.count("/") != 1:
            raise UsageError(explain("cannot read the task", got=said, expected="TASK/LANGUAGE"))
        task, language = (
            said.split("/") if said else task_of(name, compared.folders.get(name), request.tasks)
        )
        wanted[name] = read_task_file(request.tasks, task, language, request.split)
    return wanted


def _folder_of(adapter: Adapter) -> Path | None:
    """What it was read from, which may name its task."""
    return adapter.source.parent if isinstance(adapter.source, Path) else None


def bundles_of(compared: Compared) -> dict[str, dict[str, Any]]:
    """Bytes and sha256 of every bundle, as the result says them, and the stated errors of its
    tasks: of their modules, and the largest of their coded tensors."""
    return {
        label: {
            "bytes": bundle.size,
            "sha256": bundle.sha256(),
            "errors": {x.name: x.error for x in bundle.manifest.tasks},
            "tensor_errors": {
                x.name: max(x.tensor_errors) for x in bundle.manifest.tasks if x.tensor_errors
            },
        }
        for label, bundle in compared.bundles.items()
    }


def _head(compared: Compared, request: Request) -> dict[str, Any]:
    """What the result says besides the tasks."""
    return {
        "schema": SCHEMA,
        "base": {"name": Path(request.base).name, "sha256": weights_hash(Path(request.base))},
        "bundles": bundles_of(compared),
        "adapters": {name: adapter.content_hash() for name, adapter in compared.adapters.items()},
        "fp16_bytes": 2 * sum(adapter.numbers for adapter in compared.adapters.values()),
        "split": request.split,
        "limits": {"rows": request.rows, "tokens": request.tokens},
        "products": request.products,
        "seed": request.seed,
        "versions": versions(_PACKAGES),
        "hardware": {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0))},
    }


def task_result(rows: TaskRows, scores: Mapping[str, Scores], seed: int) -> dict[str, Any]:
    """The entry of ``tasks`` for these scores. A classification has none of the base, which has no
    head, and says how many labels flip."""
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
            if base is None:
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
        "tokens": int(next(iter(scores.values())).tokens.sum()),
        "results": results,
    }


def _changes(score: Scores) -> dict[str, Any]:
    """How many of the original's answers change, and KL an answer; nothing if not measured."""
    if score.changed is None or score.answer_divergence is None:
        return {}
    return {
        "changed": int(score.changed.sum()),
        "changed_pct": round(100 * float(score.changed.mean()), 4),
        "kl_answer": round(float(score.answer_divergence.mean()), 8),
    }
