"""Build the data of a page from a bundle, its originals and results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hydraopt.adapters import is_image_model
from hydraopt.bundle import Bundle, open_bundle
from hydraopt.errors import UsageError, explain
from hydraopt.files import StrPath
from hydraopt.inspect import Originals, bytes_by_place, detailed_tasks, originals_of, task_cosines
from hydraopt.notes import Note, stored
from hydraopt.progress import Progress, silent
from hydraopt.report.data import (
    Layers,
    OriginalsRow,
    Page,
    PeopleRow,
    TaskView,
    TensorRow,
    language_name,
    shown_name,
)
from hydraopt.report.evidence import CLEAR, MOST_PEOPLE, Evidence, hash_of, read_evidence
from hydraopt.report.tasks import (
    alike_of,
    forms_of,
    group_rows,
    judged_by,
    map_of,
    size_rows,
    summary_of,
    task_views,
    values_of,
)
from hydraopt.version import __version__

MOST_TASKS: Final = 2000
"""Maximum number of tasks listed."""
_MOST_LAYERS: Final = 40_000
MOST_COMPARED: Final = 100
_MOST_EXAMPLES: Final = 400
_MOST_MODULES: Final = 2048, 64
"""Limit on the modules of tasks that are compared: a number, and file bytes per further one.

Comparing takes milliseconds per module.
"""


@dataclass
class Collected:
    """Data available before anything is decoded.

    tasks: all tasks, the most harmed first.
    """

    bundle: Bundle
    evidence: Evidence
    tasks: list[TaskView]

    @property
    def name(self) -> str:
        """Name of the bundle, as text."""
        return shown_name(self.bundle.path.name)

    @property
    def originals(self) -> Originals:
        """Size of the originals."""
        return originals_of(self.bundle)

    @property
    def image(self) -> bool:
        """True if the adapters are for an image model, which writes no answers."""
        return is_image_model(module.path for module in self.bundle.core.modules)


def collect(path: StrPath, results: Iterable[StrPath] = ()) -> Collected:
    """Open a bundle and read what results say of it; raises HydraoptError."""
    bundle = open_bundle(path)
    bundle.manifest  # noqa: B018  # read by being asked for, also of a folder with an index
    if not len(bundle):
        raise UsageError(explain("the bundle has no tasks", file=path, do="Add some first"))
    evidence = read_evidence(bundle, results)
    return Collected(bundle, evidence, task_views(bundle, evidence))


def build(
    path: StrPath,
    originals: Iterable[StrPath] = (),
    results: Iterable[StrPath] = (),
    *,
    same_base: bool = False,
    alpha: float | None = None,
    progress: Progress | None = None,
) -> Page:
    """Build the page of a bundle as data; every task that it shows is decoded once.

    originals: adapters of its tasks, whose likeness is shown instead of that of the coded tasks.
    results: files of ``hydraopt eval -o``.
    same_base, alpha: as for merge.

    Raises HydraoptError, also where no task of the bundle is among the originals.
    """
    known, report, given = collect(path, results), progress or silent, list(originals)
    tasks = known.tasks[:MOST_TASKS]
    layers = _layers(known.bundle, tasks, report)
    names = _compared(known)
    likeness = task_cosines(
        known.bundle, given, names, same_base=same_base, alpha=alpha, progress=report
    )
    rows = [x for task in tasks for x in known.evidence.examples.get(task.name, ())]
    rows.sort(key=lambda x: not x.changed)
    bundle, evidence, whole = known.bundle, known.evidence, known.originals
    told = (note for task in known.tasks for note in stored(task.name, task.notes))
    notes = _once([*_left_out(evidence), *evidence.notes, *told])[:100]
    return Page(
        name=known.name,
        base_model=bundle.base_model,
        count=len(known.tasks),
        size=bundle.size,
        originals=OriginalsRow(whole.size, whole.name, whole.stored),
        image=known.image,
        judged_by=judged_by(known.tasks),
        summary=summary_of(bundle, known.tasks, whole, known.image),
        tasks=tuple(tasks),
        layers=layers,
        modules=tuple(module.path for module in bundle.core.modules),
        sizes=size_rows(known.name, bundle.size, known.tasks, evidence),
        map=map_of(bundle, known.tasks, layers),
        alike=alike_of(likeness, len(known.tasks)),
        languages=group_rows(known.tasks, lambda x: language_name(x.language)),
        groups=group_rows(known.tasks, lambda x: x.group),
        filters=values_of(known.tasks),
        forms=forms_of(layers),
        parts=tuple((what, size) for what, size in bytes_by_place(bundle).items() if size),
        examples=tuple(rows[:_MOST_EXAMPLES]),
        made=(*_made(bundle), *evidence.origin),
        notes=(
            *notes,
            *(_uncompared() if given and not likeness.tasks else ()),
            *_no_room(known.tasks, tasks, len(rows), layers),
        ),
        people=_people(evidence),
    )


def _compared(known: Collected) -> set[str]:
    """Return the most harmed coded tasks, which are compared with each other.

    Returns none where the modules are too many for the bytes of the file.
    """
    if _has_too_many_modules(known.bundle):
        return set()
    coded = {x.name for x in known.bundle.manifest.tasks if x.content is not None}
    names = [x.name for x in known.tasks if x.name in coded and not x.lossless]
    return set(names[:MOST_COMPARED])


def _has_too_many_modules(bundle: Bundle) -> bool:
    free, each = _MOST_MODULES
    return len(bundle.core.modules) > free + bundle.size // each


def _uncompared() -> Iterator[Note]:
    """Yield the note for originals of tasks that are not compared."""
    text = (
        "The originals that were given are not compared with anything: only coded tasks are, "
        f"and of these the {MOST_COMPARED} most harmed."
    )
    yield Note("originals_unused", text)


def _no_room(
    tasks: Sequence[TaskView], shown: Sequence[TaskView], rows: int, layers: Mapping[str, Layers]
) -> Iterator[Note]:
    """Yield notes on tasks, kept answers and layers for which the page has no room."""
    if len(shown) < len(tasks):
        text = f"The list has the {len(shown):,} most harmed of {len(tasks):,} tasks."
        yield Note("page_full", text, "tasks")
    if rows > _MOST_EXAMPLES:
        text = f"Of {rows:,} kept answers the first {_MOST_EXAMPLES} are shown."
        yield Note("page_full", text, "answers")
    left = sum(task.modules > 0 and task.name not in layers for task in shown)
    if left:
        text = f"{left:,} tasks are shown without their layers, for which a page has no room."
        yield Note("page_full", text, "layers")


def _layers(bundle: Bundle, tasks: Sequence[TaskView], report: Progress) -> dict[str, Layers]:
    """Return the layers of the most harmed tasks, up to the number that a page has room for."""
    chosen, room = set(), _MOST_LAYERS
    for task in tasks:
        room -= task.modules
        if room < 0:
            break
        chosen.add(task.name)
    at = {module.path: i for i, module in enumerate(bundle.core.modules)}
    return {
        name: Layers(
            tuple(at[x.path] for x in task.details),
            tuple(x.error for x in task.details),
            tuple(x.bytes for x in task.details),
            tuple(x.form for x in task.details),
            tuple(
                TensorRow(x.key, " x ".join(map(str, x.shape)) or "1", x.bytes, x.error)
                for x in task.tensor_details
            ),
        )
        for name, task in detailed_tasks(bundle, chosen, report).items()
    }


def _once(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Return the notes, of those with one text the first."""
    by_text: dict[str, Note] = {}
    for note in notes:
        by_text.setdefault(note.text, note)
    return tuple(by_text.values())


def _people(evidence: Evidence) -> tuple[PeopleRow, ...]:
    """Return the rows of probes, up to the limit of a page.

    If there are more, probes as a whole and groups with a clear change come first.
    """
    rows = [row for held in evidence.people.values() for row in held]
    if len(rows) > MOST_PEOPLE:
        rows.sort(key=lambda x: bool(x.group) and x.p >= CLEAR)
    return tuple(rows[:MOST_PEOPLE])


def _left_out(evidence: Evidence) -> Iterator[Note]:
    """Yield a note if a page has no room for all rows of probes."""
    count = sum(map(len, evidence.people.values()))
    if count > MOST_PEOPLE:
        text = (
            f"Of {count:,} rows of probes {MOST_PEOPLE:,} are shown, clear changes first. "
            "The result file has all."
        )
        yield Note("page_full", text, "probes")


def cut(text: str, most: int) -> str:
    """Return the text, cut to ``most`` characters with a note if it is longer."""
    return text if len(text) <= most else f"{text[:most]} [cut]"


def _made(bundle: Bundle) -> list[tuple[str, str]]:
    """Describe how the bundle was made, as its own file states it."""
    rows = [("file", f"{shown_name(bundle.path.name)}, {bundle.size:,} bytes")]
    digest = hash_of(bundle)
    if digest is not None:
        rows.append(("sha256", digest))
    rows.append(("format version", str(bundle.version)))
    rows.append(("written by", str(bundle.metadata.get("library", "(not said)"))))
    rows.append(("base model", bundle.base_model or "(not named)"))
    for key, value in bundle.recipe.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        rows.append((f"recipe: {key}", cut(text, 600)))
    rows.append(("this page", f"hydraopt {__version__}"))
    return rows
