"""Data of a report's page, as dataclasses that become JSON.

Errors are relative Frobenius errors, shares are fractions of one, sizes are bytes. The harm of a
task is the measured share of its original's answers that change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from hydraopt.notes import Note

_LANGUAGE: Final = re.compile(r"(?P<group>.+)[-_.](?P<language>[a-z]{2,3}(?:-[A-Za-z]{2,4})?)$")
NONE: Final = "(none)"
"""Value for a task without a language or a group."""

_LANGUAGES: Final = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "fa": "Persian", "fi": "Finnish", "fr": "French",
    "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian", "id": "Indonesian", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "sw": "Swahili",
    "ta": "Tamil", "te": "Telugu", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def language_name(code: str) -> str:
    """Return a code with its name, "German (de)"; an unknown code as it is."""
    name = _LANGUAGES.get(code)
    return f"{name} ({code})" if name else code


def shown_name(name: str) -> str:
    """Return a file's name as text, with "?" for characters that text cannot hold."""
    return name.encode(errors="replace").decode()


def parts_of(
    names: Iterable[str], said: Mapping[str, tuple[str, str]]
) -> dict[str, tuple[str, str]]:
    """Return (group, language) of each task, from ``said`` or else from a name GROUP-LANGUAGE.

    An ending counts as a language only if it is a known code, so "-v2" or "-bot" does not.
    """
    made = {}
    for name in names:
        match = _LANGUAGE.fullmatch(name)
        if name in said:
            made[name] = said[name]
        elif match and match["language"].partition("-")[0] in _LANGUAGES:
            made[name] = match["group"], match["language"]
        else:
            made[name] = name, NONE
    # A group of one task says no more than its name does.
    counts = Counter(group for group, _ in made.values())
    return {
        name: (group if counts[group] > 1 or language != NONE else NONE, language)
        for name, (group, language) in made.items()
    }


def kind_of(config: Mapping[str, Any], lossless: bool, extras: bool) -> str:
    """Describe in words how a task was trained: "LoRA", "DoRA, with more tensors"."""
    tuner = str(config.get("peft_type") or "LORA")
    name = {"LORA": "LoRA", "LOHA": "LoHa", "LOKR": "LoKr"}.get(tuner, tuner)
    if config.get("use_dora") is True:
        name = "DoRA"
    if config.get("task_type") == "SEQ_CLS":
        name += ", a classifier"
    elif extras:
        name += ", with more tensors"
    return f"{name}, lossless" if lossless else name


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
    original_bytes: as :func:`hydraopt.inspect.bundle.original_bytes` counts them.
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
