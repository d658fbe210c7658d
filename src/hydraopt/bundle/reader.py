"""Read a bundle: check everything before it is used, and read it when it is needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydraopt.adapters import open_base
from hydraopt.bundle import encoding as strictjson
from hydraopt.bundle.contents import Container
from hydraopt.bundle.manifest import TaskRow
from hydraopt.bundle.peft.extras import rounded_copy, weights_at_hand
from hydraopt.bundle.task import BundleData, TaskAdapter
from hydraopt.errors import TaskNotFoundError, explain
from hydraopt.files import AnyPath
from hydraopt.notes import closest


def no_such_task(name: str, there: Iterable[str], path: AnyPath) -> TaskNotFoundError:
    """Return the error for a name that no task has; it suggests similar names."""
    # Only the files of the requested tasks are open, so other names may be unknown.
    expected = closest(name, sorted(there)) or f"a name from hydraopt inspect --list {path}"
    return TaskNotFoundError(explain("no such task", file=path, got=repr(name), expected=expected))


class Bundle(BundleData, Mapping[str, TaskAdapter]):
    """Tasks by name, sorted. Reading one task reads the shared bases and that task's own bytes."""

    @property
    def rows(self) -> list[TaskRow]:
        """Row of each task, available before its file is read."""
        return self.source.rows

    @property
    def is_whole(self) -> bool:
        """True if the whole manifest is loaded, or :attr:`rows` would have to load it."""
        return self.source.is_whole

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata of the header, for information."""
        return {**self.source.loaded.metadata, "tasks": strictjson.dumps([*self.source.names])}

    @property
    def version(self) -> int:
        """Format version."""
        return self.source.loaded.version

    @property
    def base_model(self) -> str | None:
        """Base model of all tasks."""
        return self.core.base_model

    @property
    def size(self) -> int:
        """Bytes of the file, or of the core and all task files; an index does not count."""
        return self.source.size

    @property
    def bytes_read(self) -> int:
        """Bytes read from its files so far."""
        return self.source.header + self._read

    @property
    def files(self) -> list[Container]:
        """All files, the core first."""
        return self.source.whole.files

    @property
    def fetched(self) -> int:
        """Bytes of the open files that came from a store; what was in the cache does not count."""
        return sum(file.fetched for file in self.source.loaded.files)

    @property
    def tensor_bytes(self) -> dict[str, int]:
        """Bytes of each tensor of the file, in file order: what each thing in a bundle costs."""
        return dict(self.source.whole.sizes)

    def __getitem__(self, name: str) -> TaskAdapter:
        """Return the task of that name as a fresh object; what it decodes is freed with it.

        Raises TaskNotFoundError, naming similar ones.
        """
        if name not in self:
            raise no_such_task(str(name), self, self.path)
        contents = self.source.part(name)
        if name not in contents.tasks:
            raise no_such_task(name, self, self.path)
        return TaskAdapter(self, contents, contents.tasks[name])

    def one_by_one(self) -> Iterator[TaskAdapter]:
        """Yield all tasks; tasks of one stream follow one another, so that it is decoded once."""
        before: TaskAdapter | None = None
        whole = self.source.whole
        order = sorted(whole.tasks.values(), key=lambda x: -1 if x.content is None else x.content)
        for entry in order:
            task = TaskAdapter(self, whole, entry)
            if before is not None and before.entry.content == entry.content is not None:
                task.reuse(before)
            yield task
            before = task

    def __contains__(self, name: object) -> bool:
        return name in self.source.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.source.names)

    def __len__(self) -> int:
        return len(self.source.names)

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, {len(self)} tasks, {len(self.core.modules)} modules)"

    def sha256(self) -> str:
        """Return the SHA-256 of the file in hex; several files are hashed one after another."""
        digest = hashlib.sha256()
        for piece in (piece for file in self.files for piece in file.content()):
            digest.update(piece)
        return digest.hexdigest()

    def give_base(self, base: str | os.PathLike[str] | None) -> None:
        """Take the base model's folder, unless one was given or no tensor depends on it.

        Raises UsageError for a folder without weight files that differences from it need.
        """
        if self.base is None and base and Path(base).is_dir():
            if any(entry.base for entry in self.core.tensors):
                self.base = open_base(base)
            elif any(map(rounded_copy, self.core.tensors)):
                self.base = weights_at_hand(base) or None

    def peft_state_dict(self, task: TaskAdapter, dtype: Any) -> dict[str, Any]:
        from hydraopt.bundle.peft.folder import torch_state_dict  # who reads needs no writer

        return torch_state_dict(task, dtype)

    def save_peft(self, task: TaskAdapter, folder: str | os.PathLike[str], **how: Any) -> None:
        from hydraopt.bundle.peft.folder import export_peft

        export_peft(task, folder, **how)
