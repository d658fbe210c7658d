"""Run the rows of a task through a base model with several sets of factors, and score them.

All sets get the same batches. In each batch the reference is first, and the next-token
distributions of the other sets are compared with its own at once, because the distributions of all
rows would not fit in memory.

All sets get the same batches. Teacher forcing gives the loss and the divergence of the next-token
distributions from those of the reference (the original adapter). Generation gives the answers that
the metrics score. Two exact shortcuts save most of the generation:

- Exact match: greedy decoding generates the expected answer exactly when every target token, EOS
  included, is the argmax given the target tokens before it.
- Other answers: greedy decoding generates the reference's answer exactly when every token of it is
  the argmax given the tokens before it. A set generates text only from the first token that is not.

The pass over the reference's answers also shows which of them change, and their divergence. If the
reference's answer differs from the expected one, a row is in this pass twice, once with each.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.tasks import Metric, TaskExample, TaskFile, metrics_of
from hydraopt.model import (
    Encoded,
    NotFiniteError,
    Placed,
    TaskFactors,
    attached,
    batches_of,
    divergence,
    encode_row,
    ends_of,
    generate,
    hidden_states,
    logits_of,
    not_finite,
    place,
    positions_of,
)
from hydraopt.progress import Progress, silent

Sample = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A difference of scores, new less old, with its 95 % percentile interval.

    deviation: the bootstrap's standard deviation, from which the interval of a mean over tasks
    follows.
    """

    difference: float
    low: float
    high: float
    deviation: float

    def rounded(self) -> Interval:
        """Return the interval to four places."""
        values = self.difference, self.low, self.high, self.deviation
        return Interval(*(round(x, 4) for x in values))


def paired_difference(
    old: Sample,
    new: Sample,
    total: Callable[[Sample], float],
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return ``total(new) - total(old)`` over rows drawn with replacement, the same for both.

    old, new: (rows, numbers) as of hydraopt.evaluate.tasks. Source: Efron and Tibshirani 1993, An
    Introduction to the Bootstrap, the percentile interval; Koehn 2004 for paired test sets.
    """
    rng = np.random.default_rng(seed)
    rows = old.shape[0]
    differences = np.empty(draws)
    for i in range(draws):
        pick = rng.integers(0, rows, rows)
        differences[i] = total(new[pick]) - total(old[pick])
    low, high = np.quantile(differences, [0.025, 0.975])
    spread = float(differences.std(ddof=1))
    return Interval(total(new) - total(old), float(low), float(high), spread)


_TOKENS: Final = 32
"""Number of tokens whose distributions over the vocabulary are compared at a time."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Forced:
    """Teacher-forced results of one set of factors on targets.

    loss, divergence, agreement: (targets,), as in :class:`hydraopt.evaluate.scores.Scores`.
    changed: (targets,), 1 where the reference ranks another token first anywhere.
    written: of each target, its tokens up to the first that greedy decoding would not write, which
        is replaced by the token that it would write; the whole target if there is no such token.
    """

    loss: Numbers
    divergence: Numbers
    agreement: Numbers
    changed: Numbers
    written: list[tuple[int, ...]]

    @classmethod
    def nothing(cls, count: int) -> Forced:
        """Return zeros for so many targets."""
        loss, divergence, agreement, changed = np.zeros((4, count))
        return cls(loss, divergence, agreement, changed, [()] * count)

    def only(self, where: Sequence[int]) -> Forced:
        """Return the results on some targets."""
        some = list(where)
        return Forced(
            self.loss[some],
            self.divergence[some],
            self.agreement[some],
            self.changed[some],
            [self.written[i] for i in some],
        )


@torch.inference_mode()
def forced(
    model: Any,
    items: Sequence[Encoded],
    sets: Mapping[str, Placed],
    reference: str | None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Forced]:
    """Return every set's results on the items' targets; the reference, if any, is the first set.

    progress: called with the number of batches done and of all batches.
    """
    made = {name: Forced.nothing(len(items)) for name in sets}
    batches = batches_of(model, items)
    for number, (chunk, batch) in enumerate(batches):
        if progress:
            progress(number, len(batches))
        rows = np.array(chunk)[batch.row.numpy()]
        theirs: tuple[Tensor, Tensor] | None = None  # the reference's log probabilities, and best
        for name, placed in sets.items():
            with attached(model, placed):
                hidden = hidden_states(model, batch)
            logits = logits_of(model, hidden, placed)
            total, best = logits.logsumexp(-1), logits.argmax(-1)
            same, kl = torch.ones_like(total), torch.zeros_like(total)
            if theirs is not None:
                same, kl = (theirs[1] == best).float(), _divergence(theirs[0], logits, total)
            elif name == reference:
                theirs = logits - total[:, None], best
            one, loss = made[name], total - logits.gather(1, batch.labels[:, None])[:, 0]
            for sums, column in ((one.loss, loss), (one.divergence, kl), (one.agreement, same)):
                np.add.at(sums, rows, column.double().numpy())
            one.changed[rows[same.numpy() == 0]] = 1
            start = 0
            for i in chunk:
                stop = start + len(items[i].target)
                one.written[i] = _written(best[start:stop].tolist(), items[i].target)
                start = stop
    return made


def _written(best: Sequence[int], target: tuple[int, ...]) -> tuple[int, ...]:
    """See :class:`Forced`. best: first choices at the target's positions."""
    for k, (mine, wanted) in enumerate(zip(best, target, strict=True)):
        if mine != wanted:
            return (*target[:k], mine)
    return target


def _divergence(logs: Tensor, logits: Tensor, total: Tensor) -> Tensor:
    """Return KL(reference || this) in nats, (N,), in float64; few tokens at a time.

    logs (N, vocabulary): logarithms of the reference's probabilities.
    """
    pieces = (slice(start, start + _TOKENS) for start in range(0, len(logits), _TOKENS))
    return torch.cat([divergence(logs[x], logits[x] - total[x, None]) for x in pieces])


@dataclass(frozen=True)
class TaskRows:
    """Rows of a task that are scored, as text and as tokens.

    left_out: number of rows that are not scored. reasons: their number by reason.
    """

    task: TaskFile
    rows: tuple[TaskExample, ...]
    items: tuple[Encoded, ...]
    metrics: tuple[Metric, ...]
    left_out: int
    reasons: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def sifted(
        cls,
        task: TaskFile,
        items: Sequence[Encoded],
        metrics: Sequence[Metric],
        most_tokens: int | None,
        positions: int | None,
    ) -> TaskRows:
        """Keep the rows that are short enough and have a token.

        most_tokens: requested maximum. positions: tokens of the base's context. None for no limit.

        Raises UsageError if no row is left.
        """

        def reason(length: int) -> str:
            if not length:
                return "without a token"
            if most_tokens is not None and length > most_tokens:
                return "longer than --max-tokens"
            if positions is not None and length > positions:
                return f"longer than the base's context of {positions} tokens"
            return ""

        reasons = [reason(len(item)) for item in items]
        kept = [i for i, why in enumerate(reasons) if not why]
        counts = Counter(filter(None, reasons))
        if not kept:
            raise UsageError(
                explain(
                    f"no row of {task.name}/{task.language} is short enough and has a token",
                    got=", ".join(f"{count} {why}" for why, count in counts.items()),
                    expected="a text that is not empty, within --max-tokens and the base's context",
                )
            )
        return cls(
            task,
            tuple(task.rows[i] for i in kept),
            tuple(items[i] for i in kept),
            tuple(metrics),
            len(items) - len(kept),
            dict(counts),
        )

    def several(self) -> NDArray[np.bool_]:
        """Return where several answers are correct, (rows,); teacher forcing uses the first."""
        return np.array([len(row.references) > 1 for row in self.rows])


def encode_task(
    task: TaskFile,
    tokenizer: Any,
    most_rows: int | None = None,
    most_tokens: int | None = None,
    positions: int | None = None,
) -> TaskRows:
    """Encode the first ``most_rows`` rows of a task as tokens.

    most_tokens: maximum length of a row; longer rows are left out.
    positions: tokens of the base's context, likewise. None for no limit.

    Raises UsageError if no row is left.
    """
    chosen = task.rows[:most_rows]
    items = [encode_row(tokenizer, task.instruction, row.input, row.output) for row in chosen]
    return TaskRows.sifted(task, items, metrics_of(task.metric), most_tokens, positions)


@dataclass(frozen=True)
class Scores:
    """Scores of one set of factors, row by row, (rows,) each.

    loss: sum over target tokens, in nats.
    tokens: number of target tokens, EOS included.
    exact: 1 where the greedy answer is the expected one.
    divergence, agreement: sums over target tokens of KL(reference || this), in nats, and of equal
        argmaxes; for the reference itself zero and the number of tokens.
    numbers: by metric, (rows, numbers).
    answers: generated answers, if any.
    changed: 1 where the reference's greedy answer changes in any token, EOS included.
    answer_divergence: KL(reference || this) in nats, summed over the tokens of that answer.

    The last two are None if not requested. A truncated answer counts up to its last token.
    """

    loss: Numbers
    tokens: Numbers
    exact: Numbers
    divergence: Numbers
    agreement: Numbers
    numbers: Mapping[str, Numbers]
    answers: tuple[str, ...] | None
    changed: Numbers | None = None
    answer_divergence: Numbers | None = None

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
        """Percentage of target tokens at which both rank the same next token first."""
        return 100 * float(self.agreement.sum() / self.tokens.sum())

    def score(self, metric: Metric) -> float:
        """Return the score of all rows in percent."""
        return metric.total(self.numbers[metric.name])

    def against(self, old: Scores, metric: Metric, seed: int = 0) -> Interval:
        """Return the difference to ``old`` in percentage points, with its bootstrap interval."""
        return paired_difference(
            old.numbers[metric.name], self.numbers[metric.name], metric.total, seed=seed
        )


def run_task(
    model: Any,
    tokenizer: Any,
    rows: TaskRows,
    sets: Mapping[str, TaskFactors],
    reference: str | None = None,
    write: bool = True,
    progress: Progress | None = None,
    texts: bool = False,
) -> dict[str, Scores]:
    """Score every set of factors on the rows of a task; an empty set is the base.

    reference: set that the others are compared with. Changes of its greedy answers are reported for
        all sets but itself and the base.
    write: whether to generate answers. Without answers there are only metrics that teacher forcing
        can measure, and none if a row has several correct answers.
    texts: whether the result has the answers as text.

    Raises NotFiniteError if no answer can be generated because logits are not finite.
    """
    placed = {
        name: place(model, sets[name]) for name in sorted(sets, key=lambda name: name != reference)
    }
    judged = texts or not all(metric.exact for metric in rows.metrics) or rows.several().any()
    writers = list(placed) if write and judged else []
    compared = {name for name in sets if sets[name] and name != reference}
    title = f"{rows.task.name}/{rows.task.language}"
    bar = functools.partial(progress or silent, title)
    along: dict[str, Forced] = {}
    if write and reference in placed and (compared or writers[1:]):
        first, along = _both(model, tokenizer, rows.items, placed, reference, bar)
    else:
        first = forced(model, rows.items, placed, reference, bar)
    if writers:
        check_finite({name: [x.loss] for name, x in first.items()})
    answers = {}
    for name in writers:
        # The longer of two beginnings of the same answer is known.
        both = [first[name].written, *([along[name].written] if along else [])]
        known = [max(pair, key=len) for pair in zip(*both, strict=True)]
        answers[name] = _answers(model, tokenizer, rows.items, name, placed[name], known)
    return {
        name: _scores(
            rows,
            first[name],
            along.get(name) if name in compared else None,
            tuple(tokenizer.decode(x, skip_special_tokens=True).strip() for x in answers[name])
            if name in answers
            else None,
        )
        for name in sets
    }


def check_finite(values: Mapping[str, Iterable[Numbers]]) -> None:
    """Raise NotFiniteError with the sets of which any number is NaN or infinity."""
    sets = [x for x, arrays in values.items() if not all(np.isfinite(y).all() for y in arrays)]
    if sets:
        raise _no_scores(sets)


def _no_scores(sets: Iterable[str]) -> NotFiniteError:
    return not_finite(f"no scores of {', '.join(sets)}")


def check_scores(scores: Mapping[str, Scores]) -> None:
    """Raise NotFiniteError with the sets whose own loss is not finite.

    If all losses are finite, it names the sets whose distance from the original is not.
    """
    check_finite({label: [one.loss] for label, one in scores.items()})
    distances = {label: (x.divergence, x.answer_divergence) for label, x in scores.items()}
    check_finite({label: [x for x in held if x is not None] for label, held in distances.items()})


def _both(
    model: Any,
    tokenizer: Any,
    items: Sequence[Encoded],
    sets: Mapping[str, Placed],
    reference: str,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Forced], dict[str, Forced]]:
    """Teacher-force all sets on the targets of the items, and on the reference's answers.

    A first pass of the reference alone shows how much of each target it generates. All sets then
    read its answers, even a set whose changes are not reported: after the same prompts they cost
    little.
    """
    own = {reference: sets[reference]}
    begun = forced(model, items, own, reference, progress)[reference]
    check_finite({reference: [begun.loss]})
    answers = _answers(model, tokenizer, items, reference, sets[reference], begun.written)
    other = [i for i, item in enumerate(items) if answers[i] != item.target]
    answered = [Encoded(items[i].prompt, answers[i]) for i in other]
    results = forced(model, [*items, *answered], sets, reference, progress)
    place_of = {i: len(items) + k for k, i in enumerate(other)}
    along = [place_of.get(i, i) for i in range(len(items))]
    return (
        {name: x.only(range(len(items))) for name, x in results.items()},
        {name: x.only(along) for name, x in results.items()},
    )


def _scores(
    rows: TaskRows, own: Forced, along: Forced | None, answers: tuple[str, ...] | None
) -> Scores:
    """Compute a set's scores.

    own: teacher-forced results on the targets.
    along: teacher-forced results on the reference's answers.
    answers: generated answers as text.
    """
    exact = np.array([x == item.target for x, item in zip(own.written, rows.items, strict=True)])
    exact, several = exact.astype(np.float64), rows.several()
    numbers: dict[str, Numbers] = {}
    for metric in rows.metrics:
        if metric.exact and not several.any():
            numbers[metric.name] = exact[:, None]
        elif answers is not None:
            judged = zip(answers, rows.rows, strict=True)
            values = np.array([metric.of_row(a, r, rows.task.language) for a, r in judged])
            if metric.exact:
                values[:, 0] = np.where(several, np.maximum(values[:, 0], exact), exact)
            numbers[metric.name] = values
    return Scores(
        loss=own.loss,
        tokens=np.array([float(len(item.target)) for item in rows.items]),
        exact=exact,
        divergence=own.divergence,
        agreement=own.agreement,
        numbers=numbers,
        answers=answers,
        changed=None if along is None else along.changed,
        answer_divergence=None if along is None else along.divergence,
    )


def _answers(
    model: Any,
    tokenizer: Any,
    items: Sequence[Encoded],
    name: str,
    placed: Placed,
    known: Sequence[tuple[int, ...]],
) -> list[tuple[int, ...]]:
    """Return the greedily decoded tokens of every row.

    name: of the set of factors. known: tokens of each answer, either its first ones or all.
    """
    most, positions, ends = most_tokens(items), positions_of(model), ends_of(model, tokenizer)
    # An answer ends when it fills the context; the model does not read its last token.
    room = [most if positions is None else positions + 1 - len(item.prompt) for item in items]
    answers = list(known)
    open_ones = [
        i for i, answer in enumerate(answers)
        if len(answer) < min(most, room[i]) and (not answer or answer[-1] not in ends)
    ]  # fmt: skip
    prompts = [Encoded(items[i].prompt + answers[i], ()) for i in open_ones]
    left = [most - len(answers[i]) for i in open_ones]
    try:
        written = generate(model, tokenizer, prompts, placed, left, ends)
    except NotFiniteError as error:
        raise _no_scores([name]) from error
    for i, more in zip(open_ones, written, strict=True):
        answers[i] += more
    return answers


def most_tokens(items: Sequence[Encoded]) -> int:
    """Return the number of tokens that an answer may have."""
    return max(len(item.target) for item in items) * 3 // 2 + 8
