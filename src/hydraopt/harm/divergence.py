"""KL between distributions that are nearly the same, from logits in float32.

A sum of probabilities in float32 is off by a millionth, and KL is linear in that: over a hundred
tokens an answer would be 1e-4 nats from itself. Here it is about 1e-9 (docs/log.md).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

__all__ = ["divergence", "split_likely"]

_LEAST: Final = 1e-9


def split_likely(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split the probabilities of some tokens from the probability of all others.

    logits: (N, vocabulary).
    tokens: (N, K), all different.

    Sums are in float64, and the others' probability is a difference of sums of the same numbers.

    Returns the log probabilities of the tokens, (N, K); the probability of all others together,
    (N,), above zero; and the logarithm of the sum of all exponentials, (N, 1).
    """
    top = logits.amax(-1, keepdim=True)
    each = (logits - top).exp_()
    every, likely = (
        x.sum(-1, keepdim=True, dtype=torch.float64) for x in (each, each.gather(1, tokens))
    )
    own = logits.gather(1, tokens).double() - top
    others = (every - likely).clamp_min(0)
    total = (own.exp().sum(-1, keepdim=True) + others).log()
    rest = (others.log() - total).exp().clamp_min(_LEAST)
    return own - total, rest[:, 0], total + top


def divergence(want: Tensor, got: Tensor) -> Tensor:
    """Return KL, (n,), of log probabilities (n, tokens), in float64.

    Each token counts p log(p / q) - p + q. Over all of them that is KL, and no token counts less
    than 0: what rounding takes from a sum of probabilities counts by its square (the divergence of
    Csiszar 1991 for sums that are not one).
    """
    chance, lost = want.exp(), want - got
    each = chance * (lost + torch.expm1(-lost))
    # Near ones are told by the difference above, which rounding would take from that below.
    far = ~(lost.abs() < 1)
    p, q = want[far].exp(), got[far].exp()
    each[far] = torch.where(p > 0, p * lost[far], 0.0) + (q - p)
    return each.sum(-1, dtype=torch.float64)
