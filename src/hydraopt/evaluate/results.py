"""Sources to compare, and results; docs/reference/evaluation.md describes each field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

from hydraopt.adapters import Adapter, Adapters, beyond_lora, read_adapters
from hydraopt.bundle import Bundle, TaskAdapter, is_bundle, open_bundle
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.classify import Classifier, is_classifier, saved_tensors
from hydraopt.evaluate.probes import GroupMeasures, Preferences
from hydraopt.evaluate.scores import Interval, Scores, TaskRows
from hydraopt.files import AnyPath, place_of
from hydraopt.model import TaskFactors
from hydraopt.notes import Note, by_text

BASE: Final = "base"
ORIGINAL: Final = "original"


@dataclass(frozen=True)
class BundleIdentity:
    """Content of a bundle.

    errors: stated errors of its tasks' modules.
    tensor_errors: largest stated error of each task's coded tensors.
    """

    bytes: int
    sha256: str
    errors: Mapping[str, float]
    tensor_errors: Mapping[str, float]


@dataclass(frozen=True)
class Compared:
    """Sources to compare: adapters as they are, and bundles by the name of their file.

    folders: folders of the adapters, whose names may give their tasks.
    other_methods: results of other methods, by label and adapter.
    notes: notes from reading the files.
    """

    adapters: Mapping[str, Adapter]
    bundles: Mapping[str, Bundle]
    folders: Mapping[str, AnyPath] = field(default_factory=dict)
    other_methods: Mapping[str, Mapping[str, TaskFactors]] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    def names(self) -> list[str]:
        """Return every adapter's name, of the originals and of the bundles."""
        names = dict.fromkeys(self.adapters)
        for bundle in self.bundles.values():
            names |= dict.fromkeys(bundle)
        return list(names)

    def check(self) -> None:
        """Raise UsageError for a task that is none of W + B A, or more and no classifier."""
        tasks: list[tuple[str, Adapter | TaskAdapter]] = [*self.adapters.items()]
        tasks += [(name, bundle[name]) for bundle in self.bundles.values() for name in bundle]
        # First what is none of W + B A, whatever else it holds.
        for name, task in tasks:
            if reasons := [*beyond_lora(task)]:
                raise _refused(name, ", ".join(reasons))
        for name, task in tasks:
            keys = sorted(task.extras if isinstance(task, Adapter) else task.extra_kinds)
            if keys and not self.classifies(name):
                raise _refused(name, f"{len(keys)} further tensors, {keys[0]} among them")

    def classifies(self, name: str) -> bool:
        """Return whether the adapter of that name classifies sequences, with a head of its own."""
        configs = [self.adapters[name].config] if name in self.adapters else []
        configs += [bundle[name].config for bundle in self.bundles.values() if name in bundle]
        return any(map(is_classifier, configs))

    def classifiers(self, name: str) -> dict[str, Classifier]:
        """Return the classifiers called ``name``: the original's and each bundle's.

        The base has no head.
        """
        sources: dict[str, Adapter | TaskAdapter] = {}
        if name in self.adapters:
            sources[ORIGINAL] = self.adapters[name]
        sources |= {label: x[name] for label, x in self.bundles.items() if name in x}
        factors = self.sets(name)
        return {
            label: Classifier(factors[label], saved_tensors(name, x.extras, x.extra_kinds))
            for label, x in sources.items()
        }

    def sets(self, name: str) -> dict[str, TaskFactors]:
        """Return the factors called ``name``: the base's (none), the original's, each bundle's."""
        by_label: dict[str, TaskFactors] = {BASE: {}}
        if name in self.adapters:
            modules = self.adapters[name].modules
            by_label[ORIGINAL] = {path: x.factors() for path, x in modules.items()}
        for label, bundle in self.bundles.items():
            if name in bundle:
                by_label[label] = {p: (f.B, f.A) for p, f in bundle[name].factors().items()}
        for label, made in self.other_methods.items():
            if name in made:
                by_label[label] = dict(made[name])
        return by_label


def _refused(name: str, got: str) -> UsageError:
    return UsageError(
        explain(
            f"adapter {name} is more than low-rank factors of linear modules",
            got=got,
            expected="LoRA pairs of linear modules alone, or a classifier with its head",
            do="Export it and score it with PEFT",
        )
    )


def read_compared(
    paths: Sequence[str],
    same_base: bool = False,
    base: str | None = None,
    alpha: float | None = None,
) -> Compared:
    """Read the adapters and bundles among ``paths``, distinguished by content.

    alpha: for files that do not state theirs. Raises HydraoptError.
    """
    bundles = [path for path in paths if is_bundle(path)]
    others = [path for path in paths if path not in bundles]
    adapters = read_adapters(others, same_base=same_base, alpha=alpha) if others else Adapters()
    labels = {place_of(path).name: open_bundle(path) for path in bundles}
    for bundle in labels.values():
        bundle.give_base(base)
    if len(labels) != len(bundles):
        raise UsageError(explain("two bundles have one file name", got=", ".join(bundles)))
    for label in (BASE, ORIGINAL):
        if label in labels:
            raise UsageError(
                explain(
                    f"a bundle is called {label}, as what bundles are compared with",
                    file=next(path for path in bundles if place_of(path).name == label),
                    expected=f"another name than {BASE} and {ORIGINAL}",
                    do="Rename the file",
                )
            )
    for adapter in adapters:
        adapter.check_finite()
    return Compared(
        {adapter.name: adapter for adapter in adapters},
        labels,
        {adapter.name: adapter.source.parent for adapter in adapters},
        notes=(*adapters.notes, *by_text((x.name, note) for x in adapters for note in x.notes)),
    )


def bundles_of(compared: Compared) -> dict[str, BundleIdentity]:
    """Return the identity of every bundle, by label."""
    return {
        label: BundleIdentity(
            bundle.size,
            bundle.sha256(),
            {x.name: x.error for x in bundle.manifest.tasks},
            {x.name: max(x.tensor_errors) for x in bundle.manifest.tasks if x.tensor_errors},
        )
        for label, bundle in compared.bundles.items()
    }


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
