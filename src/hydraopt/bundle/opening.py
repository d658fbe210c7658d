"""Open the bundle at a path or an address, in one file or in several."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydraopt.adapters import BaseTensors, can_be_safetensors, open_base
from hydraopt.bundle.contents import Container, TaskSource, open_file, refuse_file
from hydraopt.bundle.encoding import BUNDLE_SUFFIX, CORE, FORMAT, INDEX, TASK
from hydraopt.bundle.reader import Bundle
from hydraopt.errors import (
    AdapterFormatError,
    BundleFormatError,
    HydraoptError,
    NotThereError,
    explain,
)
from hydraopt.files import (
    CORE_SUFFIX,
    INDEX_NAME,
    TASK_SUFFIX,
    AnyPath,
    Url,
    files_in,
    held_at,
    is_folder,
    place_of,
)

if TYPE_CHECKING:
    from hydraopt.adapters import Adapter
    from hydraopt.bundle.verification import VerifyReport

_SUFFIXES = (BUNDLE_SUFFIX, CORE_SUFFIX, TASK_SUFFIX, INDEX_NAME)
_FORMATS = (FORMAT, CORE, TASK, INDEX)
_MOST_HEADER = 100 << 20


def open_bundle(
    path: str | os.PathLike[str],
    base: str | os.PathLike[str] | BaseTensors | None = None,
    *,
    tasks: Iterable[str] | None = None,
) -> Bundle:
    """Open a bundle; only its header and its manifest are read.

    path: a bundle file; a folder of a core file and task files; a core file, which is opened with
        the task files beside it; or an address of one of these. hf://OWNER/NAME opens the only
        bundle of a repository on the Hugging Face hub. In a folder with an index each task file is
        read when its task is first used. Of an address only the ranges that are not in the cache
        are fetched (hydraopt.files.cache).
    base: the base model's folder, or its own tensors by name, for tasks that hold differences from
        them.
    tasks: names of the tasks to open; None for all. Of a bundle in several files the other task
        files are not opened, so the cost does not grow with the number of tasks.

    Raises BundleFormatError for a file that is not a bundle or is damaged, ChecksumError for a
    damaged manifest, UnsupportedVersionError for a bundle of a newer format, TaskNotFoundError for
    a task of ``tasks`` that does not exist, RemoteError for an address that cannot be read.
    """
    place = _in_repository(place_of(path))
    wanted = None if tasks is None else list(dict.fromkeys(tasks))
    bundle = Bundle(place, open_base(base), _source_at(place, wanted))
    for name in wanted or ():
        bundle[name]
    return bundle


def verify_bundle(
    path: str | os.PathLike[str],
    adapters: Sequence[Adapter] | None = None,
    base: str | os.PathLike[str] | BaseTensors | None = None,
) -> VerifyReport:
    """Read every byte of a bundle, and compare it with the original adapters, if given.

    Checks all checksums, that every stream decodes to its end, and that a task that came from PEFT
    can be written as a PEFT adapter again. Tensors of a lossless task are read and not interpreted.

    Against originals, matched by task name, the relative error of each module, coded tensor and
    task is measured again. It must be what the manifest says, within its grid, or near an estimate;
    carried and lossless tensors must have the same bytes. Originals without a task, and tasks
    without an original, are problems.

    adapters: the original adapters.
    base: the base model's own tensors, where tasks hold differences from them.

    Never raises for a damaged bundle: the report says what is wrong. Memory: one task at a time.
    """
    from hydraopt.bundle.verification import VerifyReport, verify

    try:
        return verify(open_bundle(path, base), adapters)
    except HydraoptError as error:
        return VerifyReport(os.fspath(path), problems=[str(error)])


def _source_at(path: AnyPath, wanted: Sequence[str] | None = None) -> TaskSource:
    """Open a bundle in one file, or a folder or core file with its task files.

    wanted: tasks; of a bundle in several files only these are opened. In a store, where a new core
    comes beside the old tasks, those of another core are left out. Raises as
    :func:`hydraopt.open_bundle`.
    """
    file = None
    if not is_folder(path):
        file = Container(path, (FORMAT, CORE, TASK))
        if file.format == TASK:
            do = "Put its core file beside it, and give that or the folder"
            refuse_file("a task file holds nothing without its core", path, do=do)
        if file.format == FORMAT:
            return open_file(file)
    from hydraopt.bundle.folder import open_folder
    from hydraopt.bundle.parts import core_of  # one file needs neither

    return open_folder(path, None if file is None else core_of(file), wanted)


def _in_repository(place: AnyPath) -> AnyPath:
    """Return the only bundle file of a repository on the hub; every other place as given.

    Raises BundleFormatError for a repository of several bundles.
    """
    if not isinstance(place, Url) or not place.is_repository:
        return place
    suffixes = (BUNDLE_SUFFIX, CORE_SUFFIX)
    names = [x.name for x in files_in(place) or () if x.name.endswith(suffixes)]
    if len(names) > 1:
        raise BundleFormatError(
            explain(
                "the repository has several bundles",
                file=place,
                got=", ".join(names[:8]),
                expected="one",
                do="Give the address of one of them",
            )
        )
    return place / names[0] if names and names[0].endswith(BUNDLE_SUFFIX) else place


def is_bundle(path: str | os.PathLike[str], whole: bool = False) -> bool:
    """Return True if the file declares itself a bundle or a part of one; nothing else is checked.

    A file whose header cannot be read counts as one if it has a bundle's name, so that opening it
    can report what is wrong. A folder counts if it contains a core file. False if the path does not
    exist, and, with ``whole``, for parts of a bundle.
    """
    place = _in_repository(place_of(path))
    if is_folder(place):
        inside = [] if whole else files_in(place) or []
        return any(x.name.endswith(CORE_SUFFIX) for x in inside)
    if isinstance(place, Path) and not place.is_file():
        return False
    try:
        file = held_at(place, can_be_safetensors(place))
    except NotThereError:
        return False
    except AdapterFormatError:
        return _says_so(b"", place.name, whole)
    length = int.from_bytes(file.read(0, min(8, file.size)), "little")
    header = file.read(8, length) if length <= min(_MOST_HEADER, file.size - 8) else b""
    return _says_so(header, place.name, whole)


def _says_so(header: bytes, name: str, whole: bool) -> bool:
    """Return True if the header declares a bundle; if it is unreadable, decide by the file name."""
    try:
        parsed = json.loads(header)
    except (ValueError, RecursionError):
        return name.endswith(_SUFFIXES[:1] if whole else _SUFFIXES)
    metadata = parsed.get("__metadata__") if isinstance(parsed, dict) else None
    return isinstance(metadata, dict) and metadata.get("format") in (
        _FORMATS[:1] if whole else _FORMATS
    )
