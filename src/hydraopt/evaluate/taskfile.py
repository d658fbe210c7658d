"""Task folders: ``TASK/META.json`` and ``TASK/LANGUAGE/SPLIT.jsonl``, rows of text in, text out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hydraopt.errors import UsageError, explain
from hydraopt.files.jsonlines import json_lines
from hydraopt.files.reading import MOST_CONFIG, read_regular
from hydraopt.files.url import AnyPath

_MOST_ROWS = 1 << 30
"""Maximum size of a file of task rows, in bytes."""
_MOST_SAID = 100

__all__ = ["TaskExample", "TaskFile", "TaskName", "named_task", "read_task_file"]


@dataclass(frozen=True)
class TaskExample:
    """One example. references: all answers that are right, ``output`` first."""

    input: str
    output: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class TaskFile:
    """Rows of one split of one task in one language.

    metric: as META.json words it. sha256: of the JSONL file. labels: of a classification, in the
    order of the head's rows: META.json's "labels"; else its "label_set", or what the rows expect,
    sorted by code point.
    """

    name: str
    language: str
    instruction: str
    metric: str
    rows: tuple[TaskExample, ...]
    sha256: str
    labels: tuple[str, ...] = ()


def read_task_file(tasks: Path, name: str, language: str, split: str = "test") -> TaskFile:
    """Read ``tasks/name/language/split.jsonl``; raises UsageError that names file and line."""
    folder = tasks / name
    meta = _meta(folder)
    path = folder / language / f"{split}.jsonl"
    if not path.is_file():
        there = sorted(p.parent.name for p in folder.glob(f"*/{split}.jsonl"))
        raise UsageError(
            explain(
                f"task {name} has no {split} rows in {language!r}",
                file=path,
                got="no such file",
                expected=", ".join(there) or "a folder for each language",
            )
        )
    data = json_lines(path, _MOST_ROWS)
    rows = tuple(_row(value, path, number) for number, value in data.rows)
    return TaskFile(
        name,
        language,
        str(meta["instruction"]),
        str(meta["metric"]),
        rows,
        data.sha256,
        _labels(meta, rows, name),
    )


def _labels(
    meta: Mapping[str, object], rows: tuple[TaskExample, ...], name: str
) -> tuple[str, ...]:
    for key in ("labels", "label_set"):
        value = meta.get(key)
        if value is None:
            continue
        known = [x for x in value if isinstance(x, str)] if isinstance(value, list) else []
        if not known or len(set(known)) != len(value):  # type: ignore[arg-type]  # a list, if known
            raise UsageError(
                explain(f'"{key}" in META.json of {name}', got=value, expected="different strings")
            )
        return tuple(known if key == "labels" else sorted(known))
    return tuple(sorted({row.output for row in rows}))


def _meta(folder: Path) -> Mapping[str, object]:
    path, got = folder / "META.json", "no such file" if folder.is_dir() else "no such folder"
    if path.is_file():
        try:
            meta = json.loads(read_regular(path, MOST_CONFIG).decode("utf-8"))
            if all(isinstance(meta[key], str) for key in ("instruction", "metric")):
                return dict(meta)
            got = "values that are no text"
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            got = repr(error)[:_MOST_SAID]
    raise UsageError(
        explain(
            f"{folder.name} is no task: its META.json cannot be read",
            file=path,
            got=got,
            expected='a JSON object with the texts "instruction" and "metric"',
        )
    )


def _row(value: Any, file: Path, number: int) -> TaskExample:
    row = value if isinstance(value, dict) else {}
    given, output, more = row.get("input"), row.get("output"), row.get("references")
    more = [] if more is None else more
    right = isinstance(more, list) and all(isinstance(x, str) for x in more)
    if not (isinstance(given, str) and isinstance(output, str) and right):
        raise UsageError(
            explain(
                f"line {number} is no row of a task",
                file=file,
                got=json.dumps(value, ensure_ascii=False)[:60],
                expected='strings "input" and "output"; "references" is a list of strings, if any',
            )
        )
    return TaskExample(given, output, (output, *(x for x in more if x != output)))


class TaskName(NamedTuple):
    """A task and its language. source: where both are stated, for messages."""

    name: str
    language: str
    source: str


def named_task(adapter: str, folder: AnyPath | None, tasks: Path) -> TaskName:
    """Return the task of an adapter: that of its score.json ("task/language"), else of its name.

    folder: the adapter was read from there; one of a store is not looked into. A name is
    TASK-LANGUAGE with a task that ``tasks`` has. Raises UsageError if neither states a task.
    """
    file = folder / "score.json" if isinstance(folder, Path) else None
    if file and file.is_file():
        try:
            value = json.loads(read_regular(file, MOST_CONFIG).decode("utf-8")).get("task")
        except (ValueError, AttributeError, RecursionError):
            value = None
        if isinstance(value, str) and value.count("/") == 1:
            name, language = value.split("/")
            return TaskName(name, language, f'"task" in {file}')
    name, dash, language = adapter.rpartition("-")
    if dash and (tasks / name / language).is_dir():
        return TaskName(name, language, f"the adapter's name {adapter}")
    raise UsageError(
        explain(
            f"cannot tell the task of adapter {adapter}",
            got="no score.json that names it, and no such task folder",
            expected='a name TASK-LANGUAGE, or score.json with "task": "TASK/LANGUAGE"',
            file=folder,
            do=f"Set it with --task {adapter}=TASK/LANGUAGE",
        )
    )
