"""A core with task files: a change writes or removes task files, and the core is not touched.

What it costs does not depend on how many tasks there are, but for the listing of the folder. Each
task is written in one step; of several, those before a crash are there.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from hydraopt.adapters.basefiles import BaseTensors
from hydraopt.bundle.apart import (
    core_id,
    folded,
    open_apart,
    packed_task,
    parts_beside,
)
from hydraopt.bundle.container import CORE, FORMAT, TASK, TASK_SUFFIX
from hydraopt.bundle.opening import Container
from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.bundle.splitting import task_file_name, task_stem
from hydraopt.bundle.taskname import task_name_in
from hydraopt.collection.lock import locked
from hydraopt.collection.piece import Change, TaskPiece, held_in, packed_parts
from hydraopt.errors import BundleFormatError
from hydraopt.files.writing import clean, sync_folder, write_atomically

__all__ = ["FolderCollection", "folder_of"]

_JOURNAL: Final = ".renaming.json"
"""What a rename is about to do, so that the next change can finish it."""


class FolderCollection:
    """A folder with one core file, or the core file of several.

    path: the folder, or that file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        core, _ = parts_beside(path)
        self._core_path = core
        self._folder = core.parent

    @contextmanager
    def held(self) -> Iterator[None]:
        with locked(self._core_path):
            clean(self._folder)
            self._finish_renaming()
            yield

    def bundle(self) -> Bundle:
        return open_bundle(self.path)

    def core(self, base: BaseTensors | None = None) -> Bundle:
        return Bundle(self.path, base, open_apart(self._core, [], self.path))

    def size(self) -> int:
        """Bytes of the core and of all task files in the folder."""
        sizes = (entry.stat().st_size for entry in os.scandir(self._folder) if _is_task(entry.name))
        return self._core.size + sum(sizes)

    def has(self, name: str) -> bool:
        return self._file_of(name) is not None

    def names(self) -> set[str]:
        return set(self.bundle())

    def taken(self, names: Iterable[str]) -> set[str]:
        """Every task file is asked for its name: it may have another one than its file."""
        wanted = set(names)
        there = map(self._name_in, self._files)
        return {name for name in there if name is not None and name in wanted}

    def write(self, change: Change) -> int:
        """Make a change. Tasks that come in the place of others are written over these."""
        come = {piece.entry.name: piece for piece in change.come}
        for old, new in change.renamed.items():
            self._rename(old, new)
        taken = {folded(stem) for stem in self._stems}
        for name, piece in come.items():
            file = self._file_of(name) if name in change.gone else None
            target = file or self._folder / task_file_name(name, taken)
            self._write(target, piece)
        for name in change.gone:
            if name not in come:
                file = self._file_of(name)
                assert file is not None
                file.unlink()
        sync_folder(self._folder)
        return self.size()

    @cached_property
    def _core(self) -> Container:
        return Container(self._core_path, (CORE,))

    @cached_property
    def _core_id(self) -> str:
        return core_id(self._core.metadata["checksums"])

    @cached_property
    def _core_config(self) -> Mapping[str, Any]:
        """The config that those of the tasks are stored as differences from."""
        value = self._core.manifest()
        configs = value.get("configs") if isinstance(value, dict) else None
        first: Mapping[str, Any] = configs[0] if configs else {}
        return first

    @property
    def _stems(self) -> set[str]:
        names = (entry.name for entry in os.scandir(self._folder))
        return {name.removesuffix(TASK_SUFFIX) for name in names if _is_task(name)}

    @property
    def _files(self) -> list[Path]:
        return [self._folder / f"{stem}{TASK_SUFFIX}" for stem in sorted(self._stems)]

    def _name_in(self, file: Path) -> str | None:
        """The name of a file's task; None if the task is another core's."""
        return task_name_in(file, self._core_id)

    def _file_of(self, name: str) -> Path | None:
        """The file that holds the task. Those are opened first that are called like it; the others
        may be, too, if somebody has renamed a file."""
        file = self._file_called(name)
        if file is not None:
            return file
        for other in self._files:
            # A file that cannot be read is no reason not to find the task in another one.
            with suppress(BundleFormatError):
                if self._name_in(other) == name and name in self._opened(other):
                    return other
        return None

    def _file_called(self, name: str) -> Path | None:
        wanted = folded(task_stem(name))
        for stem in sorted(self._stems):
            head, tilde, number = folded(stem).rpartition("~")
            if folded(stem) == wanted or (tilde and number.isdecimal() and head == wanted):
                file = self._folder / f"{stem}{TASK_SUFFIX}"
                if name in self._opened(file):
                    return file
        return None

    def _opened(self, file: Path) -> Bundle:
        """The bundle of one task file; of no task if it belongs to another core."""
        return Bundle(file, None, open_apart(self._core, [file], self.path, strict=False))

    def _write(self, target: Path, piece: TaskPiece) -> None:
        core = self.core().manifest
        manifest, streams, blobs = packed_parts(core, [piece])
        # The core's config first: that of the task is stored as the difference.
        manifest = dataclasses.replace(
            manifest,
            configs=(self._core_config, piece.config),
            tasks=(dataclasses.replace(manifest.tasks[0], config=1),),
        )
        stream = streams[0] if streams else None
        packed_task(manifest, 0, stream, blobs, self._core_id).write(target)

    def _rename(self, old: str, new: str) -> None:
        """Two steps, of which the first one counts: the file gets the new row, then its name."""
        file = self._file_of(old)
        assert file is not None
        taken = {folded(stem) for stem in self._stems - {file.name.removesuffix(TASK_SUFFIX)}}
        target = self._folder / task_file_name(new, taken)
        told = json.dumps({"task": new, "from": file.name, "to": target.name})
        write_atomically(self._folder / _JOURNAL, [told.encode()])
        self._write(file, held_in(self._opened(file), old).renamed(new))
        self._finish_renaming()

    def _finish_renaming(self) -> None:
        """What a rename had still to do when it was killed; nothing if it had not begun."""
        journal = self._folder / _JOURNAL
        try:
            told = json.loads(journal.read_bytes())
            names = [Path(told[key]).name for key in ("from", "to")]
            task = str(told["task"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            names, task = [], ""
        if names and all(map(_is_task, names)):
            file, target = (self._folder / name for name in names)
            if file.is_file() and not target.exists() and task in self._opened(file):
                os.rename(file, target)
        with suppress(OSError):
            journal.unlink()


def folder_of(path: Path) -> Path | None:
    """The folder of a collection of several files, by itself or by its core file; None if what is
    there is one file. Raises BundleFormatError for what is no bundle."""
    if path.is_dir():
        return path
    return path.parent if Container(path, (FORMAT, CORE, TASK)).format == CORE else None


def _is_task(name: str) -> bool:
    return name.endswith(TASK_SUFFIX)
