"""Outputs that a user names, apart from the inputs; names of a bundle's files.

Such a folder may come from a stranger, as an archive or a download, and a link in it would lead a
write to any file of the user's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, overload

from hydraopt.errors import UsageError, explain
from hydraopt.files.addresses import AnyPath, Url, is_url, place_of

CORE_SUFFIX: Final = ".core.safetensors"
TASK_SUFFIX: Final = ".task.safetensors"
INDEX_NAME: Final = "tasks.index.safetensors"
"""Name of the index of a folder."""


def is_part(name: str) -> bool:
    """Return True if the name is that of a core file, a task file or an index."""
    return name.endswith((CORE_SUFFIX, TASK_SUFFIX)) or name == INDEX_NAME


_MOST_LINKS: Final = 40
"""Maximum number of links in one path, as on Linux."""


@overload
def destination(output: Path) -> Path: ...
@overload
def destination(output: str | os.PathLike[str]) -> AnyPath: ...
def destination(output: str | os.PathLike[str]) -> AnyPath:
    """Return the place that an output name stands for, all links followed; addresses stay.

    Raises UsageError for a path through a link that lies in the folder of a bundle, and OSError for
    links that lead nowhere.
    """
    place = place_of(output)
    if isinstance(place, Url):
        return place
    rest = list(reversed((Path.cwd() / place).parts))
    here, left = Path(rest.pop()), _MOST_LINKS
    while rest:
        name = rest.pop()
        step = here.parent if name == ".." else here / name
        if not step.is_symlink():
            here = step
            continue
        if _holds_parts(here):
            raise _is_link(step)
        left -= 1
        if left < 0:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(output))
        target = Path(os.readlink(step))
        if target.is_absolute():
            here = Path(target.anchor)
        rest += reversed(target.relative_to(target.anchor).parts)
    return here


def name_inside(folder: Path, name: str) -> Path:
    """Return the place of a file or folder that a command names inside a user's folder.

    Raises UsageError for a link there, and as :func:`destination`.
    """
    destination(folder)
    place = folder / name
    if place.is_symlink():
        raise _is_link(place)
    return place


def check_replaceable(
    path: str | os.PathLike[str], overwrite: bool, ours: Callable[[bytes], bool]
) -> None:
    """Raise UsageError unless the file ``path`` may be written.

    It may be a new file, a file that ``ours`` recognises by its first 64 KiB as written by an
    earlier call, or any file with ``overwrite``.
    """
    target = destination(Path(path))
    if target.is_dir():
        raise UsageError(explain("the output is a folder", file=path, expected="a file name"))
    if not target.parent.is_dir():
        raise UsageError(explain("no such folder", file=target.parent, do="Create it first"))
    if overwrite or not target.exists():
        return
    if not target.is_file() or not ours(_beginning(target)):
        raise UsageError(
            explain(
                "the output exists and hydraopt did not make it",
                file=path,
                do="Choose another name, or replace it with --force (in Python overwrite=True)",
            )
        )


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 16)


def _holds_parts(folder: Path) -> bool:
    try:
        return any(map(is_part, os.listdir(folder)))
    except OSError:  # nothing can be written into it either
        return False


def _is_link(place: Path) -> UsageError:
    return UsageError(
        explain(
            "a link is in the place of an output, in a folder that hydraopt writes to",
            file=place,
            got=f"a link to {os.readlink(place)}",
            do="Delete the link, or name the file or folder that it stands for",
        )
    )


def check_apart(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise UsageError if the output is one of the inputs, lies in one, or is around one.

    Links are followed, and another hard link to an input counts as the input.
    """
    if is_url(output):
        _check_addresses(Url(os.fspath(output)), inputs)
        return
    target = Path(os.path.realpath(place_of(output)))
    for given in inputs:
        if is_url(given):
            continue
        source = Path(os.path.realpath(place_of(given)))
        if target == source or _same(target, source):
            _refuse(output, given, "is")
        if source.is_dir() and source in target.parents:
            _refuse(output, given, "lies in")
        if target in source.parents:
            _refuse(output, given, "is around")


def _check_addresses(target: Url, inputs: Iterable[str | os.PathLike[str]]) -> None:
    for source in (Url(os.fspath(x)) for x in inputs if is_url(x)):
        if target == source:
            _refuse(target, source, "is")
        if target.under(source):
            _refuse(target, source, "lies in")
        if source.under(target):
            _refuse(target, source, "is around")


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _refuse(output: str | os.PathLike[str], given: str | os.PathLike[str], how: str) -> None:
    raise UsageError(
        explain(
            f"the output {how} what is read",
            file=output,
            got=f"the input {given}",
            do="Give an output of its own",
        )
    )
