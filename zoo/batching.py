"""Rows to token ids and to training batches, in the layout of hydraopt.basemodel.encoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hydraopt.basemodel.encoding import Batch, Encoded, collate, encode_row, prompt_text
from hydraopt.basemodel.logits import as_the_model_does, logits_of
from hydraopt.basemodel.model import hidden_states
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
    """Mean cross-entropy per target token, in nats, with a gradient for the hidden states alone."""
    hidden = hidden_states(model, batch)
    if as_the_model_does(model, one := torch.ones(1)) is not one:
        return F.cross_entropy(logits_of(model, hidden, {}), batch.labels)
    weight = model.lm_head.weight
    loss: Tensor = _OutputLoss.apply(hidden, weight, batch.labels)  # type: ignore[no-untyped-call]
    return loss


class _OutputLoss(torch.autograd.Function):
    """Cross-entropy behind a frozen output layer; its gradient is made in the forward pass.

    With 262,144 tokens in the vocabulary, keeping float32 logits for a backward pass and reading
    them several times costs as much as the rest of a small model.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """hidden: (N, width), weight: (vocabulary, width), labels: (N,); a float32 scalar."""
        logits = F.linear(hidden, weight)
        right = logits.gather(1, labels[:, None])[:, 0].float()
        loss = (logits.float().logsumexp(1) - right).mean()
        slope = torch.softmax(logits, dim=1)
        slope[torch.arange(len(labels)), labels] -= 1
        ctx.save_for_backward(slope @ weight / len(labels))
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The stored gradient, scaled."""
        (slope,) = ctx.saved_tensors
        return slope * grads[0].to(slope.dtype), None, None


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
