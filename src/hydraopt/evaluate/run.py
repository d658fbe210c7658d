"""One task's rows through one base with several sets of factors: losses, agreement, answers.

Every set sees the same batches. Teacher forcing gives the loss, and how far the next-token
distributions are from those of the reference (the original adapter); generation gives the answers
that the metrics score. Exact match needs no generation: greedy decoding writes a row exactly when
every target token, EOS included, is the argmax given the true tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.encoding import Encoded, batches_by_tokens, collate, encode_row
from hydraopt.evaluate.metrics import Metric, metrics_of
from hydraopt.evaluate.model import Pair, attached, generate, hidden_states, logits_of
from hydraopt.evaluate.stats import Interval, paired_difference
from hydraopt.evaluate.taskfile import Row, TaskFile

__all__ = ["Scores", "TaskRows", "encode_task", "run_task"]

BATCH_TOKENS = 1024
"""Padded tokens of a batch: large enough that matrix products run at full speed on a CPU."""
_HEAD = "lm_head"

Numbers = NDArray[np.float64]
Factors = Mapping[str, Pair]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task that are scored, as text and as tokens.

    left_out: rows that were longer than the limit.
    """

    task: TaskFile
    rows: tuple[Row, ...]
    items: tuple[Encoded, ...]
    metrics: tuple[Metric, ...]
    left_out: int


def encode_task(
    task: TaskFile, tokenizer: Any, most_rows: int | None = None, most_tokens: int | None = None
) -> TaskRows:
    """The first rows of a task as tokens; those of more than ``most_tokens`` are left out.

    Raises UsageError if none is left.
    """
    chosen = task.rows[:most_rows]
    items = [encode_row(tokenizer, task.instruction, row.input, row.output) for row in chosen]
    kept = [i for i, item in enumerate(items) if most_tokens is None or len(item) <= most_tokens]
    if not kept:
        raise UsageError(
            explain(
                f"no row of {task.name}/{task.language} is short enough",
                got=f"{min(map(len, items))} tokens at least",
                expected=f"at most {most_tokens}",
            )
        )
    return TaskRows(
        task,
        tuple(chosen[i] for i in kept),
        tuple(items[i] for i in kept),
        tuple(metrics_of(task.metric)),
        len(chosen) - len(kept),
    )


@dataclass(frozen=True)
class Scores:
    """What one set of factors did, row by row, (rows,) each.

    loss: sum over target tokens, in nats. tokens: target tokens, EOS included. exact: 1 where the
    greedy answer is the expected one. divergence, agreement: sums over target tokens of
    KL(reference || this), in nats, and of equal argmaxes; zeros and all tokens for the reference
    itself. numbers: by metric, (rows, numbers); answers: what was generated, if anything was.
    """

    loss: Numbers
    tokens: Numbers
    exact: Numbers
    divergence: Numbers
    agreement: Numbers
    numbers: Mapping[str, Numbers]
    answers: tuple[str, ...] | None

    @property
    def loss_per_token(self) -> float:
        """Mean loss per target token, in nats."""
        return float(self.loss.sum() / self.tokens.sum())

    @property
    def divergence_per_token(self) -> float:
        """Mean KL(reference || this) per target token, in nats."""
        return float(self.divergence.sum() / self.tokens.sum())

    @property
    def agreement_percent(self) -> float:
        """Target tokens at which both think of the same next token first, in percent."""
        return 100 * float(self.agreement.sum() / self.tokens.sum())

    def score(self, metric: Metric) -> float:
        """In percent."""
        return metric.total(self.numbers[metric.name])

    def against(self, old: Scores, metric: Metric, seed: int = 0) -> Interval:
        """The difference to ``old`` with a paired bootstrap interval, in points of percent."""
        return paired_difference(
            old.numbers[metric.name], self.numbers[metric.name], metric.total, seed=seed
        )


def run_task(
    model: Any,
    tokenizer: Any,
    rows: TaskRows,
    sets: Mapping[str, Factors],
    reference: str | None = None,
    write: bool = True,
    progress: Progress | None = None,
) -> dict[str, Scores]:
    """Score every set of factors (none: the base) on the rows of a task.

    reference: the set that the others are compared with; it runs first. write: generate answers
    where a metric needs them; without, only metrics that teacher forcing tells are there.
    """
    names = sorted(sets, key=lambda name: name != reference)
    seen: list[Tensor] | None = None
    found: dict[str, Scores] = {}
    for done, name in enumerate(names):
        if progress:
            progress(f"{rows.task.name}/{rows.task.language} {name}", done, len(names))
        factors = sets[name]
        body = {path: pair for path, pair in factors.items() if path != _HEAD}
        with attached(model, body):
            forced, hidden = _forced(model, rows.items, factors, seen, sets.get(reference or ""))
            answers = None
            if write and not all(metric.exact for metric in rows.metrics):
                with attached(model, _head_of(factors)):
                    answers = _answers(model, tokenizer, rows.items)
        if name == reference:
            seen = hidden
        numbers = {}
        for metric in rows.metrics:
            if metric.exact:
                numbers[metric.name] = forced["exact"][:, None]
            elif answers is not None:
                language = rows.task.language
                pairs = zip(answers, rows.rows, strict=True)
                numbers[metric.name] = np.array([metric.of_row(a, r, language) for a, r in pairs])
        found[name] = Scores(**forced, numbers=numbers, answers=answers)
    return {name: found[name] for name in sets}


def _head_of(factors: Factors | None) -> Factors:
    return {_HEAD: factors[_HEAD]} if factors and _HEAD in factors else {}


@torch.inference_mode()
def _forced(
    model: Any,
    items: Sequence[Encoded],
    factors: Factors,
    seen: list[Tensor] | None,
    reference: Factors | None,
) -> tuple[dict[str, Numbers], list[Tensor]]:
    """Teacher-forced sums by row, and the hidden states of each batch.

    Hidden states stand for the reference's logits: a vocabulary's worth of them for all rows would
    not fit in memory.
    """
    sums = {
        key: np.zeros(len(items)) for key in ("loss", "tokens", "exact", "divergence", "agreement")
    }
    kept = []
    for number, chunk in enumerate(batches_by_tokens([len(x) for x in items], BATCH_TOKENS)):
        batch = collate([items[i] for i in chunk])
        hidden = hidden_states(model, batch)
        kept.append(hidden)
        with attached(model, _head_of(factors)):
            logits = F.log_softmax(logits_of(model, hidden), dim=-1)
        best = logits.argmax(-1)
        columns = {
            "loss": -logits.gather(1, batch.labels[:, None])[:, 0],
            "tokens": torch.ones_like(best, dtype=torch.float32),
            "wrong": (best != batch.labels).float(),
        }
        if seen is None:
            columns |= {"divergence": torch.zeros(best.numel()), "agreement": columns["tokens"]}
        else:
            with attached(model, _head_of(reference)):
                wanted = F.log_softmax(logits_of(model, seen[number]), dim=-1)
            columns["agreement"] = (wanted.argmax(-1) == best).float()
            columns["divergence"] = (wanted.exp() * (wanted - logits)).sum(-1).clamp_min(0)
        where = np.array(chunk)
        for key, column in columns.items():
            by_row = np.bincount(batch.row.numpy(), column.double().numpy(), len(chunk))
            if key == "wrong":
                sums["exact"][where] = by_row == 0
            else:
                sums[key][where] = by_row
    return sums, kept


def _answers(model: Any, tokenizer: Any, items: Sequence[Encoded]) -> tuple[str, ...]:
    most = max(len(item.target) for item in items) * 3 // 2 + 8
    answers = [""] * len(items)
    for index, text in generate(model, tokenizer, items, most, 4 * BATCH_TOKENS):
        answers[index] = text
    return tuple(answers)
