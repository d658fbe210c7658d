"""Run the rows of a task through a base model with several sets of factors, and score them.

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

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.basemodel.encoding import Encoded, encode_row
from hydraopt.basemodel.model import Placed, TaskFactors, place
from hydraopt.basemodel.positions import positions_of
from hydraopt.basemodel.writing import (
    WRITE_TOKENS,
    NotFiniteError,
    ends_of,
    generate,
    not_finite,
)
from hydraopt.evaluate.context import sifted
from hydraopt.evaluate.forced import ForcedRow, Numbers, forced
from hydraopt.evaluate.metrics import Metric, metrics_of
from hydraopt.evaluate.stats import Interval, paired_difference
from hydraopt.evaluate.taskfile import TaskExample, TaskFile
from hydraopt.progress import Progress

__all__ = [
    "Scores",
    "TaskRows",
    "check_finite",
    "check_scores",
    "encode_task",
    "most_tokens",
    "run_task",
]

_BLOCK: Final = 256
"""Answers that are generated together."""


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
        """Keep the rows that are within the token limits. Raises UsageError if none is left."""
        where, lengths = f"{task.name}/{task.language}", [len(item) for item in items]
        kept, reasons = sifted(where, lengths, most_tokens, positions)
        return cls(
            task,
            tuple(task.rows[i] for i in kept),
            tuple(items[i] for i in kept),
            tuple(metrics),
            len(items) - len(kept),
            reasons,
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
    positions: size of the base's table of positions, likewise. None for no limit.

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
    write: bool | Collection[str] = True,
    progress: Progress | None = None,
    changes: Collection[str] | None = None,
    texts: bool = False,
) -> dict[str, Scores]:
    """Score every set of factors on the rows of a task; an empty set is the base.

    reference: set that the others are compared with.
    write: whether, or for which sets, to generate answers if a metric or ``texts`` needs them.
        Without answers there are only metrics that teacher forcing can measure, and none if a row
        has several correct answers.
    changes: sets for which changes of the reference's greedy answers are reported, None for all.
        The reference's answers are generated for them, even if no metric needs answers.
    texts: whether the result has the answers as text.

    Raises NotFiniteError if no answer can be generated because logits are not finite.
    """
    placed = {
        name: place(model, sets[name]) for name in sorted(sets, key=lambda name: name != reference)
    }
    chosen = set(sets if write is True else write or ())
    needed = texts or not all(metric.exact for metric in rows.metrics) or rows.several().any()
    writers = chosen if needed else set()
    compared = chosen - {reference} if changes is None else chosen & set(changes) - {reference}
    title = f"{rows.task.name}/{rows.task.language}"
    bar = _bar(progress, title)
    along: dict[str, list[ForcedRow]] = {}
    if reference in placed and (writers | compared) - {reference}:
        begun_bar = _bar(progress, f"{title} {reference}")
        bars = begun_bar, bar
        first, along = _both(model, tokenizer, rows.items, placed, reference, bars)
    else:
        first = forced(model, rows.items, placed, reference, bar)
    if writers:
        check_finite({name: [_column(x, "loss")] for name, x in first.items()})
    prefixes = {name: _written(first[name]) for name in placed if name in writers}
    if along:
        prefixes = {name: _longer(mine, _written(along[name])) for name, mine in prefixes.items()}
    answers = _answers(model, tokenizer, rows.items, placed, prefixes)
    return {
        name: _scores(
            rows,
            first[name],
            along.get(name) if name in compared else None,
            _decoded(tokenizer, answers[name]) if name in answers else None,
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


def _bar(progress: Progress | None, title: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(title, done, total) if progress else None


def _both(
    model: Any,
    tokenizer: Any,
    items: Sequence[Encoded],
    sets: Mapping[str, Placed],
    reference: str,
    bars: tuple[Callable[[int, int], None], Callable[[int, int], None]],
) -> tuple[dict[str, list[ForcedRow]], dict[str, list[ForcedRow]]]:
    """Teacher-force all sets on the targets of the items, and on the reference's answers.

    A first pass of the reference alone shows how much of each target it generates. All sets then
    read its answers, even a set whose changes are not reported: after the same prompts they cost
    little.

    bars: progress of the first pass, and of the pass of all sets.
    """
    (prefixes,) = forced(model, items, {reference: sets[reference]}, reference, bars[0]).values()
    check_finite({reference: [_column(prefixes, "loss")]})
    answers = _answers(model, tokenizer, items, sets, {reference: _written(prefixes)})[reference]
    other = [i for i, item in enumerate(items) if answers[i] != item.target]
    answered = [Encoded(items[i].prompt, answers[i]) for i in other]
    results = forced(model, [*items, *answered], sets, reference, bars[1])
    own = {name: rows[: len(items)] for name, rows in results.items()}
    along = {}
    for name, rows in results.items():
        changed = dict(zip(other, rows[len(items) :], strict=True))
        along[name] = [changed.get(i, row) for i, row in enumerate(own[name])]
    return own, along


def _column(rows: Sequence[ForcedRow], name: str) -> Numbers:
    return np.array([getattr(row, name) for row in rows], np.float64)


def _written(rows: Sequence[ForcedRow]) -> list[tuple[int, ...]]:
    return [row.written for row in rows]


def _longer(
    one: Sequence[tuple[int, ...]], two: Sequence[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Return the longer of two beginnings of the same answers, row by row."""
    return [max(pair, key=len) for pair in zip(one, two, strict=True)]


def _decoded(tokenizer: Any, answers: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    return tuple(tokenizer.decode(x, skip_special_tokens=True).strip() for x in answers)


def _scores(
    rows: TaskRows,
    own: Sequence[ForcedRow],
    along: Sequence[ForcedRow] | None,
    answers: tuple[str, ...] | None,
) -> Scores:
    """Compute a set's scores.

    own: teacher-forced results on the targets.
    along: teacher-forced results on the reference's answers.
    answers: generated answers as text.
    """
    exact = np.array([x.written == item.target for x, item in zip(own, rows.items, strict=True)])
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
    changed = divergence = None
    if along is not None:
        changed = (_column(along, "agreement") < _column(along, "tokens")).astype(float)
        divergence = _column(along, "divergence")
    return Scores(
        **{name: _column(own, name) for name in ("loss", "tokens", "divergence", "agreement")},
        exact=exact,
        numbers=numbers,
        answers=answers,
        changed=changed,
        answer_divergence=divergence,
    )


def _answers(
    model: Any,
    tokenizer: Any,
    items: Sequence[Encoded],
    sets: Mapping[str, Placed],
    prefixes: Mapping[str, Sequence[tuple[int, ...]]],
) -> dict[str, list[tuple[int, ...]]]:
    """Return the greedily decoded tokens of every row, for the sets in ``prefixes``.

    prefixes: by set, the known tokens of each answer, either its first ones or all.

    Rows of several sets are continued together in one batch.
    """
    most, positions, ends = most_tokens(items), positions_of(model), ends_of(model, tokenizer)
    # An answer ends when it fills the context; the model does not read its last token.
    room = [most if positions is None else positions + 1 - len(item.prompt) for item in items]
    tokens = {name: list(mine) for name, mine in prefixes.items()}
    places = [
        (name, i)
        for name, mine in tokens.items()
        for i, answer in enumerate(mine)
        if len(answer) < min(most, room[i]) and (not answer or answer[-1] not in ends)
    ]
    for start in range(0, len(places), _BLOCK):
        block = places[start : start + _BLOCK]
        prompts = [Encoded(items[i].prompt + tokens[name][i], ()) for name, i in block]
        factors = [sets[name] for name, _ in block]
        left = [most - len(tokens[name][i]) for name, i in block]
        try:
            written = generate(model, tokenizer, prompts, factors, left, WRITE_TOKENS, ends)
        except NotFiniteError as error:
            raise _no_scores(dict.fromkeys(name for name, _ in block)) from error
        for (name, i), more in zip(block, written, strict=True):
            tokens[name][i] += tuple(more)
    return tokens


def most_tokens(items: Sequence[Encoded]) -> int:
    """Return the number of tokens that an answer may have."""
    return max(len(item.target) for item in items) * 3 // 2 + 8
