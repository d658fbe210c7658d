"""Build the data of a page from a bundle, its originals and results."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hydraopt import __version__
from hydraopt.adapters.imagemodels import is_image_model
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.spec import TaskEntry
from hydraopt.bundle.task import TaskAdapter
from hydraopt.collection.opening import open_bundle
from hydraopt.errors import UsageError, explain
from hydraopt.inspect.choices import Choices, choices
from hydraopt.inspect.originals import Originals, originals_of
from hydraopt.inspect.summary import module_type
from hydraopt.notes import Note, stored
from hydraopt.progress import Progress, silent
from hydraopt.report.evidence import Evidence, hash_of, read_evidence
from hydraopt.report.groups import alike_of, forms_of, group_rows, map_of, map_tasks
from hydraopt.report.model import (
    Layers,
    OriginalsRow,
    Page,
    PeopleRow,
    TaskView,
    TensorRow,
    TypeRow,
)
from hydraopt.report.naming import language_name, shown_name
from hydraopt.report.people import CLEAR, MOST_PEOPLE
from hydraopt.report.sizes import size_rows, sizes_note
from hydraopt.report.summary import summary_of
from hydraopt.report.tasks import judged_by, task_views, values_of

__all__ = ["Collected", "build", "collect", "cut", "layers_of", "live_page"]

StrPath = str | os.PathLike[str]

MOST_TASKS: Final = 2000
"""Maximum number of tasks listed in a file; a server has no such limit."""
_MOST_LAYERS: Final = 40_000
MOST_COMPARED: Final = 100
_MOST_EXAMPLES: Final = 400
_MOST_HISTORY: Final = 500
_MOST_TYPES: Final = 1000
_MOST_PLANNED: Final = 2048, 64
"""Limit on the modules for which other sizes are planned: a number, and file bytes per further one.

Planning takes milliseconds per module.
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


def collect(path: StrPath, results: Iterable[StrPath] = (), whole: bool = True) -> Collected:
    """Open a bundle and read what results say of it; raises HydraoptError.

    whole: read all task files of a folder, even if it has an index.
    """
    bundle = open_bundle(path)
    if whole:
        bundle.manifest  # noqa: B018  # read by being asked for
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

    originals: the adapters of its tasks. With all of them other sizes are those of another merge,
    without any those of shrinking.
    results: files of ``hydraopt eval -o``.
    same_base, alpha: as for merge.

    Raises HydraoptError, also where no task of the bundle is among the originals.
    """
    known, report, given = collect(path, results), progress or silent, list(originals)
    tasks = known.tasks[:MOST_TASKS]
    layers = _layers(known.bundle, tasks, report)
    compared = _compared(known)
    made = choices(
        known.bundle,
        given,
        compared,
        sizes=len(known.tasks) <= MOST_COMPARED,
        same_base=same_base,
        alpha=alpha,
        progress=progress,
    )
    page = _page(known, layers, made if made.tasks else None)
    rows = [x for task in tasks for x in known.evidence.examples.get(task.name, ())]
    rows.sort(key=lambda x: not x.changed)
    return replace(
        page,
        tasks=tuple(tasks),
        layers=layers,
        examples=tuple(rows[:_MOST_EXAMPLES]),
        notes=(
            *page.notes,
            *_uncompared(made),
            *_no_room(known.tasks, tasks, len(rows), layers),
        ),
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
    free, each = _MOST_PLANNED
    return len(bundle.core.modules) > free + bundle.size // each


def _uncompared(made: Choices) -> Iterator[Note]:
    """Yield a note if originals were given, and all are of tasks that are not compared."""
    if made.originals and not made.tasks:
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
        text = (
            f"The list has the {len(shown):,} most harmed of {len(tasks):,} tasks. "
            "hydraopt report --serve shows all."
        )
        yield Note("page_full", text, "tasks")
    if rows > _MOST_EXAMPLES:
        text = f"Of {rows:,} kept answers the first {_MOST_EXAMPLES} are shown."
        yield Note("page_full", text, "answers")
    left = sum(task.modules > 0 and task.name not in layers for task in shown)
    if left:
        text = f"{left:,} tasks are shown without their layers, for which a page has no room."
        yield Note("page_full", text, "layers")


def live_page(known: Collected) -> Page:
    """Build the page of a server from the manifest or the index, and the results.

    Nothing is decoded; tasks, layers and examples are requested one by one.
    """
    page = replace(_page(known, {}, None), live=True)
    if known.bundle.is_whole:
        return page
    text = (
        "The list is the folder's index: notes of a task show when it is opened, tasks of equal "
        f"content are not named, and modules by type are those of the {len(page.map.tasks)} most "
        "harmed tasks."
    )
    return replace(page, notes=(Note("page_of_index", text), *page.notes))


def layers_of(task: TaskAdapter) -> Layers:
    """Return a task's modules with bytes and forms; decode it unless nothing of it is coded."""
    entry = task.entry
    paths = [task.manifest.modules[i].path for i in entry.modules]
    forms, sizes = task.forms(), task.coded_bytes()
    tensors = tuple(_tensors(task, entry)) if entry.tensors else ()
    return Layers(
        entry.modules,
        entry.errors or (0.0,) * len(entry.modules),
        tuple(sizes.get(path, 0) for path in paths),
        tuple(forms.get(path) for path in paths),
        tensors,
    )


def _tensors(task: TaskAdapter, entry: TaskEntry) -> Iterable[TensorRow]:
    errors, sizes = task.tensor_errors, task.tensor_bytes()
    for i in entry.tensors:
        held = task.manifest.tensors[i]
        shape = " x ".join(map(str, held.shape)) or "1"
        yield TensorRow(held.key, shape, sizes[held.key], errors[held.key])


def _layers(bundle: Bundle, tasks: Sequence[TaskView], report: Progress) -> dict[str, Layers]:
    """Return the layers of the most harmed tasks, up to the number that a page has room for."""
    chosen, room = set(), _MOST_LAYERS
    for task in tasks:
        room -= task.modules
        if room < 0:
            break
        chosen.add(task.name)
    made: dict[str, Layers] = {}
    # The order in which each stream is decoded once, whoever shares it.
    for adapter in bundle.one_by_one():
        if adapter.name in chosen:
            made[adapter.name] = layers_of(adapter)
            report("decoding", len(made), len(chosen))
    return made


def _page(known: Collected, layers: dict[str, Layers], made: Choices | None) -> Page:
    bundle, tasks, evidence = known.bundle, known.tasks, known.evidence
    fp16_bytes = sum(2 * row.numbers for row in bundle.rows)
    sizes = size_rows(known.name, bundle.size, fp16_bytes, tasks, made, evidence)
    whole = known.originals
    told = (note for task in tasks for note in stored(task.name, task.notes))
    return Page(
        name=known.name,
        base_model=bundle.base_model,
        count=len(tasks),
        size=bundle.size,
        originals=OriginalsRow(whole.size, whole.name, whole.stored),
        image=known.image,
        judged_by=judged_by(tasks),
        summary=summary_of(bundle, tasks, whole, known.image),
        tasks=(),
        layers={},
        modules=tuple(module.path for module in bundle.core.modules),
        sizes=sizes,
        sizes_note=sizes_note(made, tasks, MOST_COMPARED, _has_too_many_modules(bundle)),
        map=map_of(bundle, tasks, layers),
        alike=alike_of(made, len(tasks)) if made is not None else None,
        languages=group_rows(tasks, lambda x: language_name(x.language)),
        groups=group_rows(tasks, lambda x: x.group),
        filters=values_of(tasks),
        forms=forms_of(layers),
        parts=_parts(bundle),
        types=_types(bundle, tasks),
        examples=(),
        made=(*_made(bundle), *evidence.origin),
        history=_history(bundle),
        notes=_once([*_left_out(evidence), *evidence.notes, *told])[:100],
        people=_people(evidence),
    )


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


def _parts(bundle: Bundle) -> tuple[tuple[str, int], ...]:
    """Return the bytes of the file by what they store."""
    if bundle.is_whole:
        sizes = bundle.tensor_bytes
        own, carried = (
            sum(v for k, v in sizes.items() if k.startswith(start))
            for start in ("task/", "carried/")
        )
    else:  # In files of their own, where nothing is stored once for several.
        own, carried = (
            sum(getattr(x, key) for x in bundle.rows) for key in ("own_bytes", "carried_bytes")
        )
    sums = {
        "the tasks' own": own,
        "shared by tasks": bundle.core_bytes,
        "kept bit by bit": carried,
        "manifest and headers": bundle.size - own - carried - bundle.core_bytes,
    }
    return tuple((what, size) for what, size in sums.items() if size)


def _types(bundle: Bundle, tasks: Sequence[TaskView]) -> tuple[TypeRow, ...]:
    """Return the types of modules: count, and mean and worst error over modules and tasks."""
    types = [module_type(module.path) for module in bundle.core.modules]
    counts = Counter(types)
    entries: Iterable[TaskEntry] = (
        bundle.manifest.tasks
        if bundle.is_whole
        else (bundle[name].entry for name in map_tasks(tasks))
    )
    held: dict[str, list[float]] = {}
    worst: dict[str, tuple[float, str]] = {}
    for entry in entries:
        for i, error in zip(entry.modules, entry.errors, strict=False):
            held.setdefault(types[i], []).append(error)
            if types[i] not in worst or error > worst[types[i]][0]:
                worst[types[i]] = error, entry.name
    return tuple(
        TypeRow(kind, counts[kind], sum(errors) / len(errors), *worst[kind])
        for kind, errors in sorted(held.items())[:_MOST_TYPES]
    )


def _history(bundle: Bundle) -> tuple[tuple[str, str, str], ...]:
    """Return (task, day, file) of the tasks added after the merge, the latest first."""
    rows = [(x.name, x.added.day, x.added.digest) for x in bundle.rows if x.added]
    latest = sorted(rows, key=lambda row: row[1], reverse=True)
    if len(latest) > _MOST_HISTORY:
        more = f"and {len(latest) - _MOST_HISTORY:,} more", "", ""
        latest[_MOST_HISTORY:] = [more]
    return tuple(latest)


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
