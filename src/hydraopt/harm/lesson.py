"""Training data of a refit: the original's answers, and its hidden states at each token."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hydraopt.basemodel.batches import batch_of_each, batches_of
from hydraopt.basemodel.encoding import Batch, Encoded, batches_by_tokens
from hydraopt.basemodel.model import (
    Placed,
    attached,
    hidden_states,
    logits_of,
)
from hydraopt.basemodel.products import has_bfloat16
from hydraopt.capacity import most_memory

__all__ = ["Lesson", "learner_of", "learns_in"]

_TOKENS: Final = 64
"""Tokens whose logits are in memory at once: with a large vocabulary they are most of it."""
BATCH: Final = 4096
"""Maximum number of padded tokens per batch, except for a single longer text."""
_LIKELY: Final = 16
"""Number of the original's most likely tokens at a place; the refit uses those of all places."""
_ROOM: Final = 4
"""A copy of the model takes one part in so many of the memory that we may use, at most."""
KEPT: Final = 1 << 30
"""Maximum number of bytes of aims that are stored; the others are recomputed on each use."""


def learner_of(model: Any) -> Any:
    """Return the model to train: a copy in the type of :func:`learns_in`, or the model itself.

    The result is always judged on the model.
    """
    dtype = learns_in(model)
    if dtype is next(model.parameters()).dtype:
        return model
    copies = {id(x): nn.Parameter(x.to(dtype), requires_grad=False) for x in model.parameters()}
    return copy.deepcopy(model, copies)


def learns_in(model: Any) -> torch.dtype:
    """Return the number type to train in.

    bfloat16 for a model in float32 if the processor multiplies such numbers and the machine has
    room for a copy: a step takes little more than half as long, and a gradient needs no more
    digits. Otherwise the model's own type.
    """
    weights = list(model.parameters())
    size = sum(x.numel() for x in weights) * torch.bfloat16.itemsize
    plain = all(x.dtype is torch.float32 and x.device.type == "cpu" for x in weights)
    pays = plain and has_bfloat16() and size <= most_memory() / _ROOM
    return torch.bfloat16 if pays else weights[0].dtype


@dataclass(frozen=True)
class Lesson:
    """Training data of a refit.

    batches: answers of similar length.
    aims (N, width): for each batch, the inputs of the original's output layer; None where they are
        recomputed on demand.
    original: the original's factors on the model.
    tokens: the next tokens that matter. Others are not computed, because a large vocabulary takes
        most of the time.
    """

    batches: list[Batch]
    aims: list[Tensor | None]
    original: Placed
    tokens: Tensor

    @classmethod
    def of(
        cls,
        model: Any,
        answers: Sequence[Encoded],
        original: Placed,
        texts: int,
        judging: Sequence[Encoded] = (),
    ) -> Lesson:
        """Prepare a lesson.

        answers: prompts with the original's answers.
        original: the original's factors on the model.
        texts: texts per batch; fewer if they are long, because a gradient stores all activations.
        judging: other answers whose tokens matter too.
        """
        by_length = sorted(answers, key=len)
        groups = [by_length[i : i + texts] for i in range(0, len(by_length), texts)]
        batches = batch_of_each(model, [part for group in groups for part in _split(group)])
        aims: list[Tensor | None] = []
        seen, room = list[Tensor](), KEPT
        for batch in batches:
            aim = _aim(model, batch, original)
            seen += [batch.labels, _likely_tokens(model, aim, original)]
            room -= aim.nbytes
            aims.append(aim if room >= 0 else None)
        for _, batch in batches_of(model, judging):
            aim = _aim(model, batch, original)
            seen += [batch.labels, _likely_tokens(model, aim, original)]
        tokens: Tensor = torch.cat(seen).unique()  # type: ignore[no-untyped-call]
        return cls(batches, aims, original, tokens)

    def learn(self, model: Any, placed: Placed, number: int) -> None:
        """Add the gradients of the KL per answer, mean over the answers of a batch.

        placed: B (m, k) and A (k, n) by path; those of the output layer get no gradients.
        """
        batch, aim = self.batches[number], self.aims[number]
        if aim is None:
            aim = _aim(model, batch, self.original)
        dtype = aim.dtype
        with attached(model, {path: (b.to(dtype), a.to(dtype)) for path, (b, a) in placed.items()}):
            hidden = hidden_states(model, batch).float()
        # The loss in pieces, each of whose logits are freed before the next.
        leaf = hidden.detach().requires_grad_()
        answers = int(batch.row.max()) + 1
        for start in range(0, len(leaf), _TOKENS):
            with torch.no_grad():
                want = self._chances(model, aim[start : start + _TOKENS], self.original)
            got = self._chances(model, leaf[start : start + _TOKENS], placed)
            kl = F.kl_div(got, want, log_target=True, reduction="sum")
            torch.autograd.backward(kl / answers)
        torch.autograd.backward(hidden, leaf.grad)

    def _chances(self, model: Any, hidden: Tensor, placed: Placed) -> Tensor:
        return logits_of(model, hidden, placed, self.tokens).log_softmax(-1)


def _split(texts: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """Yield the texts of similar length in parts of BATCH padded tokens, or one longer text."""
    for chunk in batches_by_tokens([len(text) for text in texts], BATCH):
        yield [texts[i] for i in chunk]


@torch.no_grad()
def _aim(model: Any, batch: Batch, original: Placed) -> Tensor:
    """Return the inputs of the original's output layer for a batch, (N, width)."""
    with attached(model, original):
        return hidden_states(model, batch)


@torch.no_grad()
def _likely_tokens(model: Any, aim: Tensor, original: Placed) -> Tensor:
    """Return the tokens that the original holds likely at any place of a batch, no two alike."""
    likely = []
    for start in range(0, len(aim), _TOKENS):
        logits = logits_of(model, aim[start : start + _TOKENS], original)
        likely.append(logits.topk(min(_LIKELY, logits.shape[-1])).indices.flatten().cpu())
    every: Tensor = torch.cat(likely).unique()  # type: ignore[no-untyped-call]
    return every
