"""Measure how many of an adapter's answers change with other factors, and how far they drift.

A sum of probabilities in float32 is off by a millionth, and KL is linear in that: over a hundred
tokens an answer would be 1e-4 nats from itself. Here it is about 1e-9 (docs/log.md).

The reference is the original adapter's greedy answers, so no label is needed. One teacher-forced
pass over them gives both numbers. Greedy decoding writes an answer again exactly if each of its
tokens is the argmax after the tokens before it. The sum over its tokens of KL(original || coded) is
the KL of the whole answer's distribution on that path.

A count of changed answers is coarse, because few of 64 answers change. The share of answers that
are likely to change is finer: it follows from the original's margin at each token and from how far
margins move (:func:`likely_changes`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydraopt.bundle import Harm
from hydraopt.merging import DEFAULT_HARM, HarmSettings, MeasuredHarm
from hydraopt.model.basemodel import Placed, TaskFactors, attached, hidden_states, of_head, place
from hydraopt.model.forward import NextTokens, batches_of, logits_of
from hydraopt.model.texts import Batch, Encoded

_LEAST_PROBABILITY: Final = 1e-9


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
    rest = (others.log() - total).exp().clamp_min(_LEAST_PROBABILITY)
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


Numbers = NDArray[np.float64]

TOKENS: Final = 128
"""Tokens whose logits are in memory at once: with a large vocabulary they are most of it."""
LIKELIEST: Final = 256
"""Number of most likely next tokens that are stored for each token of an answer."""
OPEN: Final = 1e-3
"""Probability of the other next tokens from which all next tokens are compared."""
OPEN_TOKENS: Final = 32
"""Number of such tokens compared at once; each has twice the number of logits in memory."""
_LEAST: Final = 1e-9
_NEAR: Final = 3.0
"""Largest margin that matters, relative to the changes of margins."""
_SURELY: Final = 1 - 1e-9
_ANEW: Final = 0.5
"""Share of the noise's variance that is not common to two drafts."""
_STEEPEST: Final = 2.0
"""Largest slope of margin changes over margins; without the adapter the slope is about one."""
_TINY: Final = 1e-300


@dataclass(frozen=True)
class _TokenLogits:
    """Next-token distribution of the original at N tokens.

    tokens, logs (N, K): the likeliest next tokens in falling order, and their log probabilities.
    rest (N,): probability of all other tokens together.
    margin (N,): logit of the first token less that of the second.
    open, hidden: indices of the tokens where the rest matters, (n,), and the inputs of the output
        layer there, (n, width).
    """

    tokens: Tensor
    logs: Tensor
    rest: Tensor
    margin: Tensor
    open: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Reference:
    """Answers of the original, batch by batch.

    order: indices of the answers in each batch.
    answers: number of answers, empty ones among them.
    head: the original's factors on the output layer.
    among: next tokens that are compared; None for the vocabulary.
    """

    batches: tuple[Batch, ...]
    order: tuple[tuple[int, ...], ...]
    token_logits: tuple[tuple[_TokenLogits, ...], ...]
    answers: int
    head: Placed
    among: NextTokens | None

    @property
    def nbytes(self) -> int:
        """Approximate number of bytes in memory."""
        kept = (x for pieces in self.token_logits for x in pieces)
        ids = sum(2 * batch.ids.nbytes for batch in self.batches)
        return ids + sum(x.tokens.nbytes + x.logs.nbytes + x.hidden.nbytes for x in kept)

    @property
    def is_finite(self) -> bool:
        """Return whether all log probabilities and margins are finite."""
        kept = (x for pieces in self.token_logits for x in pieces)
        return all(bool(torch.isfinite(y).all()) for x in kept for y in (x.logs, x.margin))


@dataclass(frozen=True)
class Drift:
    """Change of the original's answers under other factors, token by token, (N,).

    row: index of each token's answer.
    kl: KL(original || other), nats.
    margin, moved: lead of the original's first choice in logits, and how far the lead falls;
        negative if it grows. A token changes where ``moved > margin``.
    answers: number of answers, empty ones among them.
    """

    row: NDArray[np.int64]
    kl: Numbers
    margin: Numbers
    moved: Numbers
    answers: int

    def only(self, some: Sequence[int]) -> Drift:
        """Return the drift of these answers alone."""
        place = np.full(self.answers, -1)
        place[list(some)] = np.arange(len(some))
        kept = place[self.row] >= 0
        row = place[self.row[kept]]
        return Drift(row, self.kl[kept], self.margin[kept], self.moved[kept], len(some))

    @property
    def is_finite(self) -> bool:
        """Return whether all values are finite."""
        return all(bool(np.isfinite(x).all()) for x in (self.kl, self.margin, self.moved))

    @property
    def changes(self) -> NDArray[np.bool_]:
        """Whether some token of each answer changes, (answers,)."""
        return np.bincount(self.row[self.moved > self.margin], minlength=self.answers) > 0

    @property
    def changed(self) -> int:
        """Number of answers in which some token changes."""
        return int(self.changes.sum())

    @property
    def kl_by_answer(self) -> Numbers:
        """KL of each answer in nats, (answers,)."""
        return np.bincount(self.row, self.kl, self.answers).astype(np.float64)

    def summary(self, held_out: bool = False) -> MeasuredHarm:
        """Return the measured harm, with the standard error of its KL.

        One answer has no spread to estimate an error from, but its error is not zero: it is the KL
        itself, the standard deviation of an exponential distribution, because KL is positive and
        concentrated in few answers.

        held_out: whether no refit learned from these answers.
        """
        kl = self.kl_by_answer
        nats, alone = float(kl.mean()), self.answers == 1
        error = nats if alone else float(kl.std(ddof=1) / math.sqrt(self.answers))
        likely = float(likely_changes(self).mean())
        return MeasuredHarm(Harm(self.changed, self.answers, likely, nats, held_out), error)


def likely_changes(drift: Drift) -> Numbers:
    """Estimate the chance that each answer changes, (answers,), if half the noise is redrawn.

    Coding does two things to margins g. It weakens the adapter, and favours some answers: that
    moves them in step, by a + b g. And it adds noise of one size s, the rest of what they moved.
    Another draft has the step and half of the noise, in squares: there a margin moves by
    1 - sqrt(1/2) of the step, sqrt(1/2) of what it moved here, and noise of the size s sqrt(1/2). A
    token changes with the chance that this is more than g, and an answer if any of its tokens does.
    a, b and s are of least squares, tokens of small margin weighed more, for the largest margins
    move further and change nothing. docs/log.md has what this foretells.
    """
    margin, moved = drift.margin, drift.moved
    whole = float(np.sqrt(np.square(moved).mean())) if drift.row.size else 0.0
    if whole == 0:
        return np.zeros(drift.answers)
    near = np.exp(-np.square(margin / (_NEAR * whole)))
    step, size = _in_step(margin, moved, near)
    kept = math.sqrt(1 - _ANEW)
    ahead = margin - kept * moved - (1 - kept) * step
    away = -ahead / max(math.sqrt(_ANEW) * min(size, whole), _LEAST)
    chance = torch.special.ndtr(torch.from_numpy(away)).numpy()
    stays = np.bincount(drift.row, np.log1p(-np.minimum(chance, _SURELY)), drift.answers)
    likely: Numbers = -np.expm1(stays)
    return likely


def surely_more(before: Numbers, after: Numbers) -> bool:
    """Return whether the mean over answers rises by more than its standard error.

    before, after: (answers,), as KL or chances of a change. The standard error is that of the mean
    difference. Among dozens of answers the share of changed ones varies by chance, and one of them
    can contribute most of the difference in KL.
    """
    more = after - before
    return bool(more.mean() > more.std() / math.sqrt(len(more)))


def _in_step(margin: Numbers, moved: Numbers, weights: Numbers) -> tuple[Numbers, float]:
    """Fit a line to the changes of margins over the margins.

    Returns the line's values, (N,), and the size of the residual, which is infinite where too few
    tokens have weight for an estimate.
    """
    total = max(float(weights.sum()), _TINY)
    m, d = (float(weights @ x) / total for x in (margin, moved))
    spread = float(weights @ np.square(margin - m))
    slope = float(weights @ ((margin - m) * (moved - d))) / max(spread, _TINY)
    # Two near ties could have a line so steep that it takes sure answers along.
    slope = min(max(slope, -_STEEPEST), _STEEPEST)
    line = d + slope * (margin - m)
    # The line takes two numbers.
    freedom = total - 2 * float(weights @ weights) / total
    rest = float(weights @ np.square(moved - line))
    return line, math.sqrt(rest / freedom) if freedom > 0 else math.inf


def held_out(
    answers: Sequence[Encoded], more: int = 0, settings: HarmSettings = DEFAULT_HARM
) -> tuple[list[int], list[int]]:
    """Return indices of answers to learn from and to judge by, without empty answers.

    more: number of further answers to learn from. The held-out share is of all answers, but taken
        from ``answers`` first: with enough further ones, all of ``answers`` judge.
    """
    answered = [i for i, answer in enumerate(answers) if answer.target]
    mine = settings.held_out * len(answered)
    every = min(len(answered) + more, mine)
    judges = [answered[k * mine // every - 1] for k in range(1, every // settings.held_out + 1)]
    return [i for i in answered if i not in set(judges)], judges


def held_out_of_more(
    held: int, answered: int, more: int, settings: HarmSettings = DEFAULT_HARM
) -> list[int]:
    """Return the indices of further answers that judge, spread evenly over ``more``.

    They are needed where ``held`` of ``answered`` answers are less than the held-out share of all.
    """
    wanted = min((answered + more) // settings.held_out, settings.most_held_out) - held
    return [(2 * k + 1) * more // (2 * wanted) for k in range(wanted)]


@torch.inference_mode()
def reference_of(
    model: Any,
    answers: Sequence[Encoded],
    original: TaskFactors,
    among: Tensor | None = None,
) -> Reference:
    """Return the reference of ``answers``, the original's: prompts with answers as targets.

    original: B (m, r) with the scale inside, A (r, n), by module path.
    among (k,): next tokens to compare, the original's likely ones among them. Default: the
        vocabulary.

    Raises AlignmentError for modules that the model does not have as linear ones.
    """
    answered = [i for i, answer in enumerate(answers) if answer.target]
    made = batches_of(model, [answers[i] for i in answered])
    chunks = tuple(tuple(answered[i] for i in chunk) for chunk, _ in made)
    batches = tuple(batch for _, batch in made)
    placed = place(model, original)
    some = None if among is None else NextTokens.of(model, among)
    token_logits = tuple(
        tuple(_seen(model, x, placed, some) for x in _pieces(model, y, placed)) for y in batches
    )
    return Reference(batches, chunks, token_logits, len(answers), of_head(model, placed), some)


@torch.inference_mode()
def drift_of(model: Any, reference: Reference, factors: TaskFactors) -> Drift:
    """Return the drift of the reference under other factors.

    factors: of any rank; otherwise as the original's.
    """
    placed = place(model, {path: x for path, x in factors.items() if x[1].shape[0]})
    columns: list[tuple[Numbers, ...]] = []
    pages = zip(reference.batches, reference.order, reference.token_logits, strict=True)
    for batch, chunk, originals in pages:
        rows, start = np.array(chunk)[batch.row.cpu().numpy()], 0
        for piece, before in zip(_pieces(model, batch, placed), originals, strict=True):
            kl, moved = _compared(model, piece, placed, before, reference)
            some = rows[start : start + len(kl)].astype(np.float64)
            columns.append((some, kl, _numbers(before.margin), moved))
            start += len(kl)
    if not columns:
        nothing = np.zeros(0)
        return Drift(nothing.astype(np.int64), nothing, nothing, nothing, reference.answers)
    row, kl, margin, moved = (np.concatenate(x) for x in zip(*columns, strict=True))
    return Drift(row.astype(np.int64), kl, margin, moved, reference.answers)


def _pieces(model: Any, batch: Batch, placed: Placed) -> Iterator[Tensor]:
    """Yield the inputs of the output layer at a few target tokens at a time, (n, width)."""
    with attached(model, placed):
        hidden = hidden_states(model, batch)
    for start in range(0, len(hidden), TOKENS):
        yield hidden[start : start + TOKENS]


def _seen(model: Any, hidden: Tensor, placed: Placed, among: NextTokens | None) -> _TokenLogits:
    logits = logits_of(model, hidden, placed, among)
    top, tokens = logits.topk(min(LIKELIEST, logits.shape[-1]), dim=-1)
    logs, rest, _ = split_likely(logits, tokens)
    far = (rest > OPEN).nonzero()[:, 0]
    return _TokenLogits(tokens, logs.float(), rest, top[:, 0] - top[:, 1], far, hidden[far])


def _compared(
    model: Any, hidden: Tensor, placed: Placed, before: _TokenLogits, reference: Reference
) -> tuple[Numbers, Numbers]:
    """Return (kl, moved) of some tokens: see :class:`Drift`.

    Where few others are likely, KL is taken over the likeliest tokens and all others as one, so
    that the original's output layer need not be computed again.
    """
    logits = logits_of(model, hidden, placed, reference.among)
    logs, rest, total = split_likely(logits, before.tokens)
    kl = divergence(before.logs.double(), logs)
    kl += divergence(before.rest.log()[:, None], rest.log()[:, None])
    for start in range(0, len(before.open), OPEN_TOKENS):
        block = slice(start, start + OPEN_TOKENS)
        some = before.open[block]
        want = logits_of(model, before.hidden[block], reference.head, reference.among)
        want = want.log_softmax(-1)
        kl[some] = divergence(want, logits[some] - total[some].float())
    first = before.tokens[:, :1]
    own = logits.gather(1, first)[:, 0]
    ahead = own - logits.scatter_(1, first, -torch.inf).amax(-1)
    return _numbers(kl.clamp_min(0)), _numbers(before.margin - ahead)


def _numbers(values: Tensor) -> Numbers:
    numbers: Numbers = values.double().cpu().numpy()
    return numbers
