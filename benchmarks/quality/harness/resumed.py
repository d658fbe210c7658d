"""Continue an interrupted study if its inputs are the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydraopt.adapters import Adapter
from hydraopt.evaluate.taskfile import named_task, read_task_file
from hydraopt.files.reading import file_hash

__all__ = ["files_of", "gone_on", "refuse"]

_FILES = "task files"


def files_of(adapters: Iterable[Adapter], tasks: Path, splits: Iterable[str]) -> dict[str, str]:
    """The hashes of the adapters' task files, by adapter and split, and of what says how their rows
    are asked."""
    found = {}
    for adapter in adapters:
        task, language, _ = named_task(adapter.name, adapter.source.parent, tasks)
        found[f"{adapter.name}/META.json"] = file_hash(tasks / task / "META.json")
        for split in splits:
            sha256 = read_task_file(tasks, task, language, split).sha256
            found[f"{adapter.name}/{split}"] = sha256
    return found


def gone_on(
    out: Path, made_of: Mapping[str, Any], files: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result that a run goes on with, empty for none, and what its head says of its rows.

    made_of: all that every row depends on, by its name. files: of :func:`files_of`; where the
    result has others besides, they stay. Raises SystemExit where the result was made of something
    else. What an older result does not say is not compared, and not said of its rows afterwards.
    """
    now: dict[str, Any] = json.loads(json.dumps({**made_of, _FILES: dict(files)}))
    before: dict[str, Any] = json.loads(out.read_text("utf-8")) if out.is_file() else {}
    if not before:
        return {}, now
    head = {key: value for key, value in now.items() if key in before}
    if _FILES in head:
        head[_FILES] = {**before[_FILES], **head[_FILES]}
        before[_FILES] = {**head[_FILES], **before[_FILES]}
    refuse(out, [key for key, value in head.items() if before[key] != value])
    return before, head


def refuse(out: Path, changed: Sequence[str]) -> None:
    """SystemExit where anything changed since the result was begun."""
    if changed:
        raise SystemExit(
            f"{out.name} was made with other {', '.join(changed)}; remove it first, or give "
            "another --out"
        )
