"""Sequence classification: adapters with a trained head, on rows whose outputs are labels.

The text goes in as it is, without the instruction, tokenised as the tokenizer does by itself: so
sequence classifiers are trained. The label is that of the largest logit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from hydraopt.adapters import ExtraKind, RawTensor, saved_names
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.scores import Scores, TaskRows
from hydraopt.evaluate.tasks import METRICS, TaskFile, metrics_of
from hydraopt.model import (
    BATCH_TOKENS,
    Encoded,
    TaskFactors,
    attached,
    batches_by_tokens,
    misfit,
    place,
)
from hydraopt.progress import Progress

Saved = Mapping[str, NDArray[np.float32]]

# The last layer of transformers' heads, whose rows are the labels.
_HEADS: Final = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
_METRICS: Final = ("accuracy", "macro-F1")


@dataclass(frozen=True)
class Classifier:
    """One adapter: factors by module path, and the saved tensors by their path in the model."""

    factors: TaskFactors
    saved: Saved


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Return whether an adapter's config is for sequence classification."""
    return config.get("task_type") == "SEQ_CLS"


def saved_tensors(
    name: str, extras: Mapping[str, RawTensor], kinds: Mapping[str, ExtraKind]
) -> dict[str, NDArray[np.float32]]:
    """Return the tensors that an adapter stores whole, by their path in the model.

    Raises UsageError for tensors that are not parameters of the model, such as DoRA's.
    """
    for key in extras:
        if kinds.get(key, "saved") != "saved":
            raise UsageError(
                explain(
                    f"adapter {name} is more than low-rank factors and saved modules",
                    got=f"a tensor of kind {kinds[key]}, {key}",
                    do="Export it and score it with PEFT",
                )
            )
    names = saved_names(extras)
    return {name: np.asarray(extras[key].numpy(), np.float32) for key, name in names.items()}


def labels_in(name: str, saved: Saved) -> int:
    """Return the number of labels of the head. Raises UsageError if there is no known head."""
    for path in _HEADS:
        if path in saved:
            return int(saved[path].shape[0])
    raise UsageError(
        explain(
            f"adapter {name} classifies sequences, and has no head",
            got=", ".join(sorted(saved)) or "no saved tensors",
            expected=" or ".join(_HEADS),
        )
    )


def _check_labels(task: TaskFile, labels: int) -> None:
    """Raise UsageError if a head of so many rows has another number of labels than the task."""
    if len(task.labels) != labels:
        raise UsageError(
            explain(
                f"the head and the task {task.name}/{task.language} differ in the number of labels",
                got=f"{labels} rows in the head, labels {', '.join(task.labels)[:200]}",
                do='Give META.json "labels": the labels in the order of the head\'s rows',
            )
        )


def encode_texts(
    task: TaskFile,
    tokenizer: Any,
    labels: int,
    most_rows: int | None = None,
    most_tokens: int | None = None,
    positions: int | None = None,
) -> TaskRows:
    """Encode the first rows of a task as tokens.

    Rows of more than ``most_tokens``, rows longer than the base's context, and rows
    without a token are left out.

    labels: rows of the head. positions: tokens of that context; None for no limit.

    Raises UsageError if the task has another number of labels, if a row expects none of them, or
    if no row is left.
    """
    where = f"{task.name}/{task.language}"
    _check_labels(task, labels)
    chosen = task.rows[:most_rows]
    odd = sorted({row.output for row in chosen} - set(task.labels))
    if odd:
        raise UsageError(explain(f"an output of {where} is no label of it", got=repr(odd[0])))
    items = [Encoded(tuple(tokenizer(row.input)["input_ids"]), ()) for row in chosen]
    named = [x for x in metrics_of(task.metric) if x.name in _METRICS]
    metrics = [*named, *(METRICS[x] for x in _METRICS if METRICS[x] not in named)]
    return TaskRows.sifted(task, items, metrics, most_tokens, positions)


@torch.inference_mode()
def run_classification(
    model: Any,
    rows: TaskRows,
    sets: Mapping[str, Classifier],
    reference: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Scores]:
    """Score every set on the rows of a task.

    In :class:`Scores` a row has one token, its label: loss is its cross-entropy, divergence is
    KL(reference || this) of the distributions over labels, agreement is 1 where both name the same
    label, and changed where they do not. Raises AlignmentError if the model has no place for a set.
    """
    logits: dict[str, NDArray[np.float64]] = {}
    for number, (name, one) in enumerate(sets.items()):
        if progress:
            progress(f"{rows.task.name}/{rows.task.language}", number, len(sets))
        logits[name] = _logits(model, rows.items, one)
    wanted = np.array([rows.task.labels.index(row.output) for row in rows.rows])
    return {
        name: _scores(rows, wanted, own, logits.get(reference or "", own))
        for name, own in logits.items()
    }


def _logits(model: Any, items: Sequence[Encoded], one: Classifier) -> NDArray[np.float64]:
    """Return the logits of a classifier on the model, (rows, labels)."""
    logits: list[Tensor] = [torch.empty(0)] * len(items)
    saved, placed = _place_saved(model, one.saved), place(model, one.factors)
    pad = model.config.pad_token_id
    with attached(model, placed):
        for chunk in batches_by_tokens([len(x) for x in items], BATCH_TOKENS):
            longest = max(len(items[i]) for i in chunk)
            rows = [[*items[i].prompt, *[pad] * (longest - len(items[i]))] for i in chunk]
            lengths = torch.tensor([[len(items[i])] for i in chunk])
            given = {
                "input_ids": torch.tensor(rows),
                "attention_mask": (torch.arange(longest) < lengths).long(),
            }
            for i, own in zip(chunk, functional_call(model, saved, (), given).logits, strict=True):
                logits[i] = own
    return np.array(torch.stack(logits).double().numpy(), np.float64)


def _place_saved(model: Any, saved: Saved) -> dict[str, Tensor]:
    """Return saved tensors by path, in the type and on the device of the model's own parameters.

    Raises AlignmentError if the model lacks one of them, or has it in another shape.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    placed = {}
    for path, array in saved.items():
        own = parameters.get(path)
        if own is None or own.shape != array.shape:
            got = "no such tensor" if own is None else tuple(own.shape)
            raise misfit(model, f"cannot hold the saved tensor {path}", got, tuple(array.shape))
        placed[path] = torch.from_numpy(np.array(array, np.float32)).to(own)
    return placed


def _scores(
    rows: TaskRows,
    wanted: NDArray[np.int64],
    logits: NDArray[np.float64],
    reference: NDArray[np.float64],
) -> Scores:
    chance, theirs = _log_chances(logits), _log_chances(reference)
    best = logits.argmax(1)
    answers = tuple(rows.task.labels[i] for i in best)
    judged = list(zip(answers, rows.rows, strict=True))
    divergence = np.maximum((np.exp(theirs) * (theirs - chance)).sum(1), 0)
    same = (best == reference.argmax(1)).astype(float)
    return Scores(
        loss=-chance[np.arange(len(wanted)), wanted],
        tokens=np.ones(len(wanted)),
        exact=(best == wanted).astype(float),
        divergence=divergence,
        agreement=same,
        numbers={
            x.name: np.array([x.of_row(a, row, rows.task.language) for a, row in judged])
            for x in rows.metrics
        },
        answers=answers,
        changed=1 - same,
        answer_divergence=divergence,
    )


def _log_chances(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # of infinite logits, which the caller refuses
        shifted = logits - logits.max(1, keepdims=True)
    chances: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return chances
