"""What factors learn from: the original's answers, and what it thinks at each of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from hydraopt.basemodel.batches import one_batch
from hydraopt.basemodel.encoding import Batch, Encoded
from hydraopt.basemodel.model import Placed, attached, hidden_states, logits_of

__all__ = ["Lesson"]

_TOKENS: Final = 64
"""Tokens whose logits are in memory at once: with a large vocabulary they are most of it."""
_LIKELY: Final = 16
"""Tokens that the original holds likeliest at a place: those of all places are learned from."""


@dataclass(frozen=True)
class Lesson:
    """What is learned from. batches: of answers of similar length. aims: (N, width) of each, what
    the original's output layer sees. weight, bias, cap: the output layer, of the tokens that matter
    alone: of a large vocabulary it is most of the work."""

    batches: list[Batch]
    aims: list[Tensor]
    weight: Tensor
    bias: Tensor | None
    cap: float | None

    @classmethod
    def of(cls, model: Any, answers: Sequence[Encoded], original: Placed, texts: int) -> Lesson:
        """original: its factors on the model. answers: prompts with what it answers. texts: of a
        batch."""
        by_length = sorted(answers, key=len)
        groups = [by_length[i : i + texts] for i in range(0, len(by_length), texts)]
        batches = [one_batch(model, group) for group in groups]
        with torch.no_grad(), attached(model, original):
            aims = [hidden_states(model, batch) for batch in batches]
        tokens = _likely_tokens(model, batches, aims)
        head = model.get_output_embeddings()
        bias = None if head.bias is None else head.bias.detach()[tokens]
        cap = getattr(model.config, "final_logit_softcapping", None)
        return cls(batches, aims, head.weight.detach()[tokens], bias, cap)

    def learn(self, model: Any, placed: Placed, number: int, temperature: float = 1.0) -> None:
        """Add the gradients of the KL an answer, mean over the answers of a batch.

        temperature: divides the logits of both; the KL is times its square, so that gradients are
        of one size (Hinton et al. 2015, 1503.02531).
        """
        batch, aim = self.batches[number], self.aims[number]
        with attached(model, placed):
            hidden = hidden_states(model, batch)
        # The loss in pieces, each of whose logits are freed before the next.
        leaf = hidden.detach().requires_grad_()
        answers = int(batch.row.max()) + 1
        for start in range(0, len(leaf), _TOKENS):
            with torch.no_grad():
                want = self._chances(aim[start : start + _TOKENS], temperature)
            got = self._chances(leaf[start : start + _TOKENS], temperature)
            kl = F.kl_div(got, want, log_target=True, reduction="sum")
            torch.autograd.backward(kl * temperature**2 / answers)
        torch.autograd.backward(hidden, leaf.grad)

    def _chances(self, hidden: Tensor, temperature: float) -> Tensor:
        logits = F.linear(hidden, self.weight, self.bias).float()
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        return (logits / temperature).log_softmax(-1)


@torch.no_grad()
def _likely_tokens(model: Any, batches: Sequence[Batch], aims: Sequence[Tensor]) -> Tensor:
    """The tokens of all answers, and those that the original holds likely at any place of one."""
    tokens = [batch.labels for batch in batches]
    for aim in aims:
        for start in range(0, len(aim), _TOKENS):
            logits = logits_of(model, aim[start : start + _TOKENS])
            tokens.append(logits.topk(min(_LIKELY, logits.shape[-1])).indices.flatten().cpu())
    every: Tensor = torch.cat(tokens).unique()  # type: ignore[no-untyped-call]
    return every
