"""Rows to token ids and to training batches, in the layout of hydraopt.model.texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from hydraopt.model import Encoded, encode_row, hidden_states, logits_of, prompt_text
from hydraopt.model.texts import Batch, collate
from zoo.tasks import Row

__all__ = [
    "Batch",
    "Encoded",
    "collate",
    "encode",
    "mean_loss",
    "prompt_text",
    "target_logits",
    "training_batches",
]


def encode(
    tokenizer: Any, rows: Sequence[Row], instruction: str, max_tokens: int | None = None
) -> list[Encoded]:
    """The rows as token ids; rows of more than `max_tokens`, prompt and target, are left out."""
    items = [encode_row(tokenizer, instruction, row["input"], row["output"]) for row in rows]
    return [item for item in items if max_tokens is None or len(item) <= max_tokens]


def target_logits(model: Any, batch: Batch) -> Tensor:
    """Float32 logits (N, vocabulary) at the target positions of the batch."""
    return logits_of(model, hidden_states(model, batch), {})


def mean_loss(model: Any, batch: Batch) -> Tensor:
    """Mean cross-entropy per target token, in nats."""
    return F.cross_entropy(target_logits(model, batch), batch.labels)


def training_batches(items: Sequence[Encoded], size: int, rng: Random) -> Iterator[list[Encoded]]:
    """One epoch in batches of `size`, shuffled, rows of similar length together.

    Rows are shuffled, sorted by length inside windows of 8 batches, and the batches shuffled again:
    little padding, yet batches differ from epoch to epoch. A last incomplete batch is left out.
    """
    order = list(items)
    rng.shuffle(order)
    window = 8 * size
    groups = []
    for start in range(0, len(order), window):
        chunk = sorted(order[start : start + window], key=len)
        groups += [chunk[i : i + size] for i in range(0, len(chunk) - size + 1, size)]
    rng.shuffle(groups)
    yield from groups
