"""One task's rows through one base with several sets of factors: losses, agreement, answers.

Every set sees the same batches. Teacher forcing gives the loss, and how far the next-token
distributions are from those of the reference (the original adapter); generation gives the answers
that the metrics score. Two shortcuts save most of the generation, and both are exact:

- exact match: greedy decoding writes a row exactly when every target token, EOS included, is the
  argmax given the true tokens before it;
- any other answer: greedy decoding writes what the reference wrote exactly when every token of that
  is the argmax given those before it. From the first token that is not, a set writes on its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydraopt.basemodel.encoding import Batch, Encoded, batches_by_tokens, collate, encode_row
from hydraopt.basemodel.model import (
    BATCH_TOKENS,
    WRITE_TOKENS,
    Placed,
    TaskFactors,
    attached,
    generate,
    hidden_states,
    logits_of,
    place,
)
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.metrics import Metric, metrics_of
from hydraopt.evaluate.stats import Interval, paired_difference
from hydraopt.evaluate.taskfile import TaskFile, TaskRow
from hydraopt.progress import Progress

__all__ = ["Scores", "TaskRows", "encode_task", "run_task"]

_HEAD = "lm_head"

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task that are scored, as text and as tokens.

    left_out: rows that were longer than the limit.
    """

    task: TaskFile
    rows: tuple[TaskRow, ...]
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
    sets: Mapping[str, TaskFactors],
    reference: str | None = None,
    write: bool | Collection[str] = True,
    progress: Progress | None = None,
) -> dict[str, Scores]:
    """Score every set of factors (none: the base) on the rows of a task.

    reference: the set that the others are compared with. write: whether, or for which sets, answers
    are generated where a metric needs them; without, only metrics that teacher forcing tells are
    there.
    """
    placed = {
        name: place(model, sets[name]) for name in sorted(sets, key=lambda name: name != reference)
    }
    forced = _forced(model, rows, placed, reference, progress)
    wanted = set(sets if write is True else write or ())
    if all(metric.exact for metric in rows.metrics):
        wanted = set()
    if wanted and progress:
        progress(f"{_title(rows)} answers", 0, 1)
    exact = {name: forced[name]["exact"].astype(bool) for name in placed if name in wanted}
    answers = _answers(model, tokenizer, rows.items, placed, exact, reference)
    scores: dict[str, Scores] = {}
    for name, sums in forced.items():
        numbers = {}
        for metric in rows.metrics:
            if metric.exact:
                numbers[metric.name] = sums["exact"][:, None]
            elif name in answers:
                judged = zip(answers[name], rows.rows, strict=True)
                numbers[metric.name] = np.array(
                    [metric.of_row(a, r, rows.task.language) for a, r in judged]
                )
        scores[name] = Scores(**sums, numbers=numbers, answers=answers.get(name))
    return {name: scores[name] for name in sets}


def _title(rows: TaskRows) -> str:
    return f"{rows.task.name}/{rows.task.language}"


def _split(placed: Placed) -> tuple[Placed, Placed]:
    """(factors of the body, factors of the output layer)."""
    body = {path: tensors for path, tensors in placed.items() if path != _HEAD}
    return body, {path: tensors for path, tensors in placed.items() if path == _HEAD}


@torch.inference_mode()
def _logits(model: Any, placed: Placed, batch: Batch) -> Tensor:
    """Logits at the target positions, (N, vocabulary)."""
    body, head = _split(placed)
    with attached(model, body):
        hidden = hidden_states(model, batch)
    with attached(model, head):
        return logits_of(model, hidden)


@torch.inference_mode()
def _forced(
    model: Any,
    rows: TaskRows,
    sets: Mapping[str, Placed],
    reference: str | None,
    progress: Progress | None,
) -> dict[str, dict[str, Numbers]]:
    """Teacher-forced sums by row, of every set; the reference, if any, is the first one.

    Batch by batch: a vocabulary's worth of the reference's logits for all rows would not fit in
    memory, and is not computed twice.
    """
    keys = ("loss", "tokens", "exact", "divergence", "agreement")
    sums = {name: {key: np.zeros(len(rows.items)) for key in keys} for name in sets}
    chunks = list(batches_by_tokens([len(x) for x in rows.items], BATCH_TOKENS))
    for number, chunk in enumerate(chunks):
        if progress:
            progress(f"{_title(rows)}", number, len(chunks))
        batch = collate([rows.items[i] for i in chunk])
        where = np.array(chunk)
        seen: _Seen | None = None
        for name, placed in sets.items():
            logits = _logits(model, placed, batch)
            total = logits.logsumexp(-1)
            best = logits.argmax(-1)
            right = logits.gather(1, batch.labels[:, None])[:, 0]
            columns = {
                "loss": total - right,
                "tokens": torch.ones_like(total),
                "wrong": (best != batch.labels).float(),
                "agreement": torch.ones_like(total),
                "divergence": torch.zeros_like(total),
            }
            if seen is not None:
                columns["agreement"] = (seen.best == best).float()
                columns["divergence"] = seen.divergence(logits, total)
            elif name == reference:
                seen = _Seen.of(logits, total, best)
            for key, column in columns.items():
                by_row = np.bincount(batch.row.numpy(), column.double().numpy(), len(chunk))
                if key == "wrong":
                    sums[name]["exact"][where] = by_row == 0
                else:
                    sums[name][key][where] = by_row
    return sums


@dataclass(frozen=True)
class _Seen:
    """The reference's next-token distributions at the target positions of a batch.

    chance: (N, vocabulary) probabilities. entropy, best: (N,).
    """

    chance: Tensor
    entropy: Tensor
    best: Tensor

    @classmethod
    def of(cls, logits: Tensor, total: Tensor, best: Tensor) -> _Seen:
        chance = torch.exp(logits - total[:, None])
        return cls(chance, total - _dot(chance, logits), best)

    def divergence(self, logits: Tensor, total: Tensor) -> Tensor:
        """KL(reference || this) in nats, (N,): cross-entropy less entropy."""
        return (total - _dot(self.chance, logits) - self.entropy).clamp_min(0)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Row by row, (N,); no matrix product, whose numbers may be rounded to bfloat16."""
    products: Tensor = torch.linalg.vecdot(left, right)
    return products


def _answers(
    model: Any,
    tokenizer: Any,
    items: Sequence[Encoded],
    sets: Mapping[str, Placed],
    exact: Mapping[str, NDArray[np.bool_]],
    reference: str | None,
) -> dict[str, tuple[str, ...]]:
    """What greedy decoding writes for every row, for the sets that ``exact`` names.

    exact: rows whose target a set writes, as teacher forcing has told. The reference writes first;
    then all other sets together, rows of several in one batch, each from where it leaves it.
    """
    eos = tokenizer.eos_token_id
    most = max(len(item.target) for item in items) * 3 // 2 + 8
    tokens: dict[str, list[tuple[int, ...]]] = {}

    def write(names: Sequence[str]) -> None:
        places = [
            (name, i)
            for name in names
            for i, answer in enumerate(tokens[name])
            if len(answer) < most and (not answer or answer[-1] != eos)
        ]
        begun = [Encoded(items[i].prompt + tokens[name][i], ()) for name, i in places]
        factors = [sets[name] for name, _ in places]
        for k, more in generate(model, tokenizer, begun, factors, most, WRITE_TOKENS):
            name, i = places[k]
            tokens[name][i] = (tokens[name][i] + more)[:most]

    for name, told in exact.items():
        tokens[name] = [x.target if e else () for x, e in zip(items, told, strict=True)]
    if reference in tokens:
        write([reference])
        known = tokens[reference]
        for name in tokens:
            left = [] if name == reference else [i for i, e in enumerate(exact[name]) if not e]
            followed = [Encoded(items[i].prompt, known[i]) for i in left]
            for i, prefix in zip(left, _agreed(model, sets[name], followed), strict=True):
                tokens[name][i] = prefix
    write([name for name in tokens if name != reference])
    return {
        name: tuple(tokenizer.decode(x, skip_special_tokens=True).strip() for x in mine)
        for name, mine in tokens.items()
    }


@torch.inference_mode()
def _agreed(model: Any, placed: Placed, items: Sequence[Encoded]) -> list[tuple[int, ...]]:
    """For every item the tokens of its target up to the first that greedy decoding would not write.

    That one is replaced by what it would write instead.
    """
    agreed: list[tuple[int, ...]] = [()] * len(items)
    for chunk in batches_by_tokens([len(x) for x in items], BATCH_TOKENS):
        batch = collate([items[i] for i in chunk])
        best = _logits(model, placed, batch).argmax(-1)
        for row, i in enumerate(chunk):
            mine = best[batch.row == row].tolist()
            wanted = items[i].target
            same = next(
                (k for k, (a, b) in enumerate(zip(mine, wanted, strict=True)) if a != b), None
            )
            agreed[i] = wanted if same is None else (*wanted[:same], mine[same])
    return agreed
