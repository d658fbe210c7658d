"""Outputs that a user names: links to them are followed, but not links in the folder of a bundle.

Such a folder may come from a stranger, as an archive or a download, and a link in it would lead a
write to any file of the user's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, overload

from hydraopt.errors import UsageError, explain
from hydraopt.files.parts import is_part
from hydraopt.files.url import AnyPath, Url, place_of

__all__ = ["check_replaceable", "destination", "name_inside"]

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
