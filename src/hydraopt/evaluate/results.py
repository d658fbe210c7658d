"""Results of an evaluation; docs/reference/evaluation.md describes each field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from hydraopt.evaluate.compared import BASE, ORIGINAL, BundleIdentity
from hydraopt.evaluate.run import Scores, TaskRows
from hydraopt.evaluate.stats import Interval
from hydraopt.notes import Note
from hydraopt.probes.measures import GroupMeasures, Preferences

__all__ = [
    "BaseIdentity",
    "Evaluation",
    "Hardware",
    "KeptAnswer",
    "ProbesAsked",
    "Skipped",
    "SourceScores",
    "TaskResult",
    "kept_answers",
    "task_result",
]


@dataclass(frozen=True)
class SourceScores:
    """Scores of the base, the original or a bundle on one task.

    scores: by metric, in percent. The other fields compare with the original.
    difference: of the scores, by metric.
    """

    loss: float
    exact: float
    scores: Mapping[str, float]
    kl: float | None = None
    agreement: float | None = None
    changed: int | None = None
    changed_pct: float | None = None
    kl_answer: float | None = None
    recovery: float | None = None
    difference: Mapping[str, Interval] | None = None


@dataclass(frozen=True)
class KeptAnswer:
    """One row with the answers of all sources.

    row: index among the scored rows, from 0.
    texts: by source. Text of half a character keeps its replacement mark.
    changed: sources whose answer differs from the original's in some token.
    """

    row: int
    input: str
    expected: str
    texts: Mapping[str, str]
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Skipped:
    """Reason for having no result."""

    skipped: str


ProbeResults = Mapping[str, Mapping[str, Mapping[str, GroupMeasures]]]
"""By probe, source and group."""


@dataclass(frozen=True)
class TaskResult:
    """Results of one adapter. results: by source; empty without scores, for the reason ``skipped``.

    left_out_why: number of rows by reason.
    """

    adapter: str
    task: str | None = None
    language: str | None = None
    metric: str | None = None
    sha256: str | None = None
    rows: int | None = None
    left_out: int | None = None
    left_out_why: Mapping[str, int] | None = None
    tokens: int | None = None
    results: Mapping[str, SourceScores] = field(default_factory=dict)
    skipped: str | None = None
    answers: tuple[KeptAnswer, ...] | None = None
    probes: Skipped | ProbeResults | None = None


@dataclass(frozen=True)
class ProbesAsked:
    """Probes on which every adapter is measured, and the base's own preferences.

    items, sha256: by probe, number of items, and hash of the file.
    skipped: reason why no adapter is measured.
    """

    items: Mapping[str, int]
    sha256: Mapping[str, str]
    base: Preferences
    skipped: str | None = None


@dataclass(frozen=True)
class BaseIdentity:
    """Name of the base, and the hash of its weight files; None unless it is a local folder."""

    name: str
    sha256: str | None


@dataclass(frozen=True)
class Hardware:
    """Machine of the evaluation."""

    machine: str
    cores: int


@dataclass(frozen=True)
class Evaluation:
    """Result of ``hydraopt eval``.

    adapters: content hashes by name. limits: by name; None for no limit.
    """

    SCHEMA: ClassVar[str] = "hydraopt.eval/1"
    base: BaseIdentity
    bundles: Mapping[str, BundleIdentity]
    adapters: Mapping[str, str]
    fp16_bytes: int
    split: str
    limits: Mapping[str, int | None]
    products: str
    seed: int
    versions: Mapping[str, str]
    hardware: Hardware
    probes: ProbesAsked | None = None
    tasks: tuple[TaskResult, ...] = ()
    seconds: float = 0.0
    notes: tuple[Note, ...] | None = None


def task_result(name: str, rows: TaskRows, scores: Mapping[str, Scores], seed: int) -> TaskResult:
    """Return the result of the adapter ``name`` for these scores. seed: of the bootstrap."""
    base, original = scores.get(BASE), scores.get(ORIGINAL)
    gain = base.loss_per_token - original.loss_per_token if base and original else 0.0
    return TaskResult(
        adapter=name,
        task=rows.task.name,
        language=rows.task.language,
        metric=rows.metrics[0].name,
        sha256=rows.task.sha256,
        rows=len(rows.rows),
        left_out=rows.left_out,
        left_out_why=dict(rows.reasons) or None,
        tokens=int(next(iter(scores.values())).tokens.sum()),
        results={
            source: _scores(
                rows,
                score,
                base if gain > 0 else None,
                None if score is original else original,
                seed,
            )
            for source, score in scores.items()
        },
    )


def _scores(
    rows: TaskRows,
    score: Scores,
    base: Scores | None,
    original: Scores | None,
    seed: int,
) -> SourceScores:
    """Return the scores of one source.

    original: to compare with; None for the original itself. base: None where no share of the
    original's gain is defined.
    """
    metrics = [m for m in rows.metrics if m.name in score.numbers]
    alone = SourceScores(
        loss=round(score.loss_per_token, 6),
        exact=round(100 * float(score.exact.mean()), 3),
        scores={m.name: round(score.score(m), 4) for m in metrics},
    )
    if original is None:
        return alone
    if base is not None:
        gain = base.loss_per_token - original.loss_per_token
        recovery = round((base.loss_per_token - score.loss_per_token) / gain, 6)
        alone = replace(alone, recovery=recovery)
    if score.changed is not None and score.answer_divergence is not None:
        alone = replace(
            alone,
            changed=int(score.changed.sum()),
            changed_pct=round(100 * float(score.changed.mean()), 4),
            kl_answer=round(float(score.answer_divergence.mean()), 8),
        )
    return replace(
        alone,
        kl=round(score.divergence_per_token, 8),
        agreement=round(score.agreement_percent, 4),
        difference={m.name: score.against(original, m, seed).rounded() for m in metrics},
    )


def kept_answers(rows: TaskRows, scores: Mapping[str, Scores], most: int) -> tuple[KeptAnswer, ...]:
    """Return at most ``most`` rows of a task, first those that change in most bundles.

    Other rows follow in file order.
    """
    changes = [
        tuple(name for name, x in scores.items() if x.changed is not None and x.changed[i])
        for i in range(len(rows.rows))
    ]
    chosen = sorted(range(len(rows.rows)), key=lambda i: (-len(changes[i]), i))[:most]
    return tuple(
        KeptAnswer(
            i,
            rows.rows[i].input,
            rows.rows[i].output,
            {name: x.answers[i] for name, x in scores.items() if x.answers is not None},
            changes[i],
        )
        for i in chosen
    )
