"""Data of a report's page, as dataclasses that hydraopt.jsonvalues.to_json converts to JSON values.

Errors are relative Frobenius errors, shares are fractions of one, sizes are bytes. The harm of a
task is the measured share of its original's answers that change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from hydraopt.notes import Note

__all__ = [
    "Example",
    "GroupRow",
    "Judged",
    "Layers",
    "LikenessMatrix",
    "MapView",
    "OriginalsRow",
    "Page",
    "PeopleRow",
    "SizeRow",
    "TaskView",
    "TensorRow",
]

JudgedBy = Literal["results", "manifest", "error"]
"""Source of a task's harm: scored rows, the manifest, or the error of the weights alone."""


@dataclass(frozen=True)
class Judged:
    """Measurements on rows of a task, from a result of ``hydraopt eval``.

    rows: number of scored rows.
    scores: of base, original and bundle, in percent; None where one was not scored.
    difference, low, high, deviation: bundle minus original in points, its 95 % interval and the
    bootstrap's standard deviation.
    changed: number of answers that change.
    kl: nats per answer.
    """

    rows: int
    metric: str
    base: float | None
    original: float | None
    bundle: float | None
    difference: float | None
    low: float | None
    high: float | None
    deviation: float | None
    changed: int | None
    kl: float | None


@dataclass(frozen=True)
class TaskView:
    """Task in the list.

    group, language: parts of its name, or what a result says. kind: how it was trained. harm: the
    share of answers that change, None where nobody measured; likely: of them that is likely to.
    original_bytes: as :func:`hydraopt.inspect.originals.original_bytes` counts them.
    """

    name: str
    group: str
    language: str
    kind: str
    error: float
    lossless: bool
    own_bytes: int
    carried_bytes: int
    original_bytes: int
    modules: int
    tensors: int
    base_model: str | None
    added: str | None
    shared_with: tuple[str, ...]
    notes: tuple[str, ...]
    harm: float | None
    likely: float | None
    kl: float | None
    measured: str
    judged: Judged | None
    examples: int = 0


@dataclass(frozen=True)
class TensorRow:
    """Coded tensor of one task."""

    key: str
    shape: str
    bytes: int
    error: float


@dataclass(frozen=True)
class Layers:
    """Modules of a task, in parallel lists.

    modules: indices into the page's. tensors: coded tensors beside the modules.
    """

    modules: tuple[int, ...]
    errors: tuple[float, ...]
    bytes: tuple[int, ...]
    forms: tuple[str, ...]
    tensors: tuple[TensorRow, ...] = ()


@dataclass(frozen=True)
class SizeRow:
    """Size of the bundle, or of another bundle of its tasks.

    kind: "chosen" is the bundle itself, "measured" another bundle of the same tasks in a result.
    values: by measure, (mean, worst, name of the worst task).
    """

    kind: Literal["chosen", "measured"]
    label: str
    size: int
    values: Mapping[str, tuple[float, float, str]]


@dataclass(frozen=True)
class MapView:
    """Map of tasks x columns.

    columns: modules, or types of modules if these are many. errors: by task and column, None where
    a task lacks it. bytes: the same, empty if nothing was decoded.
    """

    tasks: tuple[str, ...]
    columns: tuple[str, ...]
    errors: tuple[tuple[float | None, ...], ...]
    bytes: tuple[tuple[int | None, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class LikenessMatrix:
    """Cosines of the tasks' products in percent, in the order of a clustering.

    pairs: the most alike, (one, other, percent).
    """

    tasks: tuple[str, ...]
    cosines: tuple[tuple[int | None, ...], ...]
    pairs: tuple[tuple[str, str, int], ...]
    note: str = ""


@dataclass(frozen=True)
class GroupRow:
    """Tasks of one language or one group together.

    changed: mean share of answers that change. difference: mean difference of scores in points,
    with the 95 % interval of rows drawn anew. Means over those tasks that have the number.
    """

    name: str
    tasks: int
    error: float
    changed: float | None
    difference: float | None
    low: float | None
    high: float | None
    worst: str


@dataclass(frozen=True)
class Example:
    """Row of a task with the answers of base, original and bundle.

    marked: the original's and the bundle's answer as pieces (kind, text), kind "same", "removed"
    (the original alone) or "added" (the bundle alone); empty if one is missing.
    """

    task: str
    row: int
    input: str
    expected: str
    base: str | None
    original: str | None
    bundle: str | None
    changed: bool
    marked: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PeopleRow:
    """Probe of one task, as a whole or of one group.

    before, now: the share of choices that follow a stereotype, of the original and of the bundle;
    low, high: the latter's 95 % interval. flips: choices that change, towards a stereotype or away
    from one. p: of the direction, corrected for many tests.
    """

    task: str
    probe: str
    group: str
    items: int
    before: float | None
    now: float
    low: float
    high: float
    flips: int
    towards: int
    away: int
    p: float


@dataclass(frozen=True)
class OriginalsRow:
    """Bytes that sizes are shares of, the name after "% of", and their precision."""

    bytes: int
    name: str
    stored: str


@dataclass(frozen=True)
class Page:
    """All contents of a report.

    image: the adapters are of an image model, which writes no answers.
    """

    SCHEMA: ClassVar[str] = "hydraopt.report/1"
    name: str
    base_model: str | None
    count: int
    size: int
    originals: OriginalsRow
    image: bool
    judged_by: JudgedBy
    summary: tuple[str, ...]
    tasks: tuple[TaskView, ...]
    layers: Mapping[str, Layers]
    modules: tuple[str, ...]
    sizes: tuple[SizeRow, ...]
    map: MapView
    alike: LikenessMatrix | None
    languages: tuple[GroupRow, ...]
    groups: tuple[GroupRow, ...]
    filters: Mapping[str, tuple[str, ...]]
    forms: tuple[tuple[str, int], ...]
    parts: tuple[tuple[str, int], ...]
    examples: tuple[Example, ...]
    made: tuple[tuple[str, str], ...]
    notes: tuple[Note, ...] = ()
    people: tuple[PeopleRow, ...] = ()
