"""Gains: how much longer each coded part of an adapter should be, seen on its own answers.

The encoder fits the coefficients of a task's parts to the weights, module by module. Here they are
fitted to what the model says: the KL divergence from the original adapter to the coded one, at the
tokens of the original's answers, is lowered over one number for each part, all modules together. So
what one module's rounding did is mended in another. A few hundred numbers learn from a few hundred
tokens; the numbers replace those that a bundle holds anyway.

Differs from the usual fine-tuning after quantisation (norms and scales, e.g. AQLM, 2401.06118) in
what is free: the coefficients of rank-one parts, nothing of the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hydraopt.basemodel.encoding import Batch, Encoded, collate
from hydraopt.basemodel.model import (
    Placed,
    TaskFactors,
    attached,
    hidden_states,
    logits_of,
    of_head,
    place,
)
from hydraopt.coding.coefficients import EXPONENT_GRID

__all__ = ["gains"]

_STEPS = 8
"""Steps of Adam; more learn the texts by heart."""
_RATE = 0.02
"""Of the first step, on natural logarithms of gains, falling to zero in a straight line; so no part
grows or shrinks by more than a tenth, about."""
_HELD_OUT = 4
"""One text in so many is not learned from, but judges what was learned."""
_TEXTS = 8
"""Texts of a step."""
_TOKENS = 64
"""Tokens whose logits are in memory at once: with a large vocabulary they are most of it."""
_SHARES = (0.5, 1.0)
"""Of what was learned: the best on the texts held out is taken, or nothing."""


def gains(
    model: Any,
    texts: Sequence[Encoded],
    original: TaskFactors,
    coded: TaskFactors,
) -> dict[str, NDArray[np.int64]]:
    """By module path, by how many steps of 1/32 octave each part of ``coded`` shall grow, (k,).

    texts: prompts with the original's answers; with fewer than four nothing is learned. original,
    coded: B (m, r) with the scale inside and A (r, n); modules without parts may be there. Empty if
    nothing tried does better on the texts that are held out.
    Raises AlignmentError for modules that the model does not have as linear ones.
    """
    some = {path: factors for path, factors in coded.items() if factors[1].shape[0]}
    spoken = [text for text in texts if text.target]
    seen = [text for i, text in enumerate(spoken) if i % _HELD_OUT != _HELD_OUT - 1]
    judges = spoken[_HELD_OUT - 1 :: _HELD_OUT]
    if not judges or not some:
        return {}
    reference, placed = place(model, original), place(model, some)
    batches = [collate(seen[i : i + _TEXTS]) for i in range(0, len(seen), _TEXTS)]
    aims = [_Aim.of(model, x, reference) for x in batches]
    learned = _learn(model, placed, batches, aims)
    judge = collate(judges)
    aim = _Aim.of(model, judge, reference)
    best: dict[str, NDArray[np.int64]] = {}
    least = _divergence(model, placed, judge, aim)
    for share in _SHARES:
        tried = {path: _steps(share * x) for path, x in learned.items()}
        divergence = _divergence(model, _grown(placed, _lengths(tried)), judge, aim)
        if divergence < least:
            best, least = tried, divergence
    return best


@dataclass(frozen=True)
class _Aim:
    """What the original makes of a batch. hidden: (N, width), what its output layer sees. placed:
    its factors."""

    hidden: Tensor
    placed: Placed

    @classmethod
    def of(cls, model: Any, batch: Batch, placed: Placed) -> _Aim:
        return cls(_hidden(model, batch, placed), placed)


def _learn(
    model: Any, placed: Placed, batches: Sequence[Batch], aims: Sequence[_Aim]
) -> dict[str, Tensor]:
    """Natural logarithms of the gains, (k,) by path."""
    logs = {
        path: torch.zeros(b.shape[1], device=b.device, requires_grad=True)
        for path, (b, _) in placed.items()
    }
    optimizer = torch.optim.Adam(logs.values(), lr=_RATE)
    for step in range(_STEPS):
        optimizer.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
        optimizer.zero_grad()
        batch, aim = batches[step % len(batches)], aims[step % len(batches)]
        with attached(model, _grown(placed, {path: x.exp() for path, x in logs.items()})):
            hidden = hidden_states(model, batch)
        # The loss in pieces, each of whose logits are freed before the next.
        leaf = hidden.detach().requires_grad_()
        for piece in _pieces(len(leaf)):
            # Grown anew for each piece, whose backward pass frees what it came through.
            head = _grown(of_head(model, placed), {path: x.exp() for path, x in logs.items()})
            torch.autograd.backward(_kl(model, leaf, head, aim, piece).sum() / len(leaf))
        torch.autograd.backward(hidden, leaf.grad)
        optimizer.step()
    return {path: x.detach() for path, x in logs.items()}


def _pieces(tokens: int) -> Iterator[slice]:
    for start in range(0, tokens, _TOKENS):
        yield slice(start, start + _TOKENS)


def _kl(model: Any, hidden: Tensor, placed: Placed, aim: _Aim, piece: slice) -> Tensor:
    """KL(original || coded) at each token of a piece, (n,), in nats, from hidden states (N, width)
    and the factors that gave them."""
    with torch.no_grad():
        want = logits_of(model, aim.hidden[piece], aim.placed).log_softmax(-1)
    got = logits_of(model, hidden[piece], placed).log_softmax(-1)
    return F.kl_div(got, want, log_target=True, reduction="none").sum(-1)


@torch.no_grad()
def _hidden(model: Any, batch: Batch, placed: Placed) -> Tensor:
    with attached(model, placed):
        return hidden_states(model, batch)


@torch.no_grad()
def _divergence(model: Any, placed: Placed, batch: Batch, aim: _Aim) -> float:
    """Mean KL over all tokens of a batch."""
    hidden = _hidden(model, batch, placed)
    pieces = _pieces(len(hidden))
    sums = (_kl(model, hidden, placed, aim, piece).double().sum() for piece in pieces)
    return sum(map(float, sums)) / len(hidden)


def _steps(logs: Tensor) -> NDArray[np.int64]:
    """The nearest whole number of grid steps."""
    octaves = logs.double().cpu().numpy() / np.log(2)
    steps: NDArray[np.int64] = np.round(EXPONENT_GRID * octaves).astype(np.int64)
    return steps


def _lengths(steps: Mapping[str, NDArray[np.int64]]) -> dict[str, Tensor]:
    return {path: torch.from_numpy(2.0 ** (x / EXPONENT_GRID)) for path, x in steps.items()}


def _grown(placed: Placed, lengths: Mapping[str, Tensor]) -> Placed:
    return {path: (b * lengths[path].to(b), a) for path, (b, a) in placed.items()}
