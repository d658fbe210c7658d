"""Files of a bundle in several files: their names, and finding them beside a core file."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from hydraopt.bundle.container import CORE_SUFFIX, TASK_SUFFIX
from hydraopt.bundle.contents import refuse_file
from hydraopt.errors import BundleFormatError, RemoteError, UsageError, explain
from hydraopt.files.answers import Entry, gone
from hydraopt.files.folders import files_in, is_folder, is_there
from hydraopt.files.replacing import is_unfinished
from hydraopt.files.url import AnyPath, Url

__all__ = [
    "entries_beside", "folded", "is_task_name", "of_tasks", "only_core", "parts_beside",
    "refuse_unlisted", "stem_of", "task_file_name",
]  # fmt: skip

_LONGEST: Final = 255
"""Maximum bytes of a file name."""
_MOST_GAPS: Final = 3
"""Number of names without a file after which the search stops."""
_MOST_ALIKE: Final = 64
"""Maximum number of task files to look for by one task's name, where no folder can be listed."""


def parts_beside(
    path: AnyPath, tasks: Iterable[str] | None = None
) -> tuple[AnyPath, list[AnyPath]]:
    """Return the core file and the task files of a folder, or those beside a core file.

    tasks: tasks to look for; only files whose names fit one of them are returned. None for all.

    Raises BundleFormatError for a folder that has no core file, or several; UsageError if no tasks
    are named and the folder is one over HTTP that lists nothing.
    """
    whole = is_folder(path)
    folder = path if whole else path.parent
    if not whole and isinstance(folder, Url) and tasks is not None:
        # By their names: a list of all of them may be longer than what is wanted, if there is one.
        named = {x: None for task in tasks for x in _alike(folder, task)}
        return path, list(named)
    core, entries = entries_beside(path)
    if entries is None or core is None:
        refuse_unlisted(path)
    files = [x.name for x in entries if is_task_name(x.name)]
    if tasks is not None:
        files = of_tasks(files, tasks)
    return core, [folder / x for x in files]


def entries_beside(path: AnyPath) -> tuple[AnyPath | None, list[Entry] | None]:
    """Return the core file of a folder, or the one given, and all entries of the folder.

    The entries are None over HTTP where nothing is listed; then the core of a folder is None too.

    Raises BundleFormatError as :func:`parts_beside`.
    """
    whole = is_folder(path)
    folder = path if whole else path.parent
    try:
        entries = files_in(folder)
    except RemoteError:
        raise
    except OSError as error:
        refuse_file("bundle cannot be read", folder, error)
    if entries is None:
        return None if whole else path, None
    if not entries and isinstance(folder, Url):
        raise gone(folder)
    if not whole:
        return path, entries
    cores = [folder / x.name for x in entries if x.name.endswith(CORE_SUFFIX)]
    return only_core(cores, folder), entries


def refuse_unlisted(path: AnyPath) -> NoReturn:
    """Raise UsageError for a folder over HTTP, or a core file in one, that lists nothing."""
    name = f"NAME{CORE_SUFFIX}"
    do = f"Give the address of {name}" if is_folder(path) else "Name the tasks that are wanted"
    raise UsageError(explain("over HTTP this folder lists no files", file=path, do=do))


def only_core(cores: Sequence[AnyPath], where: AnyPath) -> AnyPath:
    """Return the only core file; raise BundleFormatError, naming ``where``, for none or several."""
    if not cores and isinstance(where, Path) and is_unfinished(where):
        raise BundleFormatError(
            explain(
                "a change of the collection is under way, or was cut short",
                file=where,
                do="Wait for it; if nobody is at work, hydraopt refresh FOLDER finishes it",
            )
        )
    if len(cores) != 1:
        raise BundleFormatError(
            explain(
                "a bundle in several files has one core"
                if cores
                else "bundle cannot be read: a folder without a core file",
                file=where,
                got=", ".join(x.name for x in cores[:8]) or None,
                expected=f"one file NAME{CORE_SUFFIX}",
                do="Give the core that the tasks were split from, and no other"
                if cores
                else "Check the path; an adapter must be merged first",
            )
        )
    return cores[0]


def is_task_name(name: str) -> bool:
    """Return True if a file name has the suffix of task files."""
    return name.endswith(TASK_SUFFIX)


def of_tasks(files: Iterable[str], tasks: Iterable[str]) -> list[str]:
    """Return, sorted, the files that may contain one of the tasks, judging by their names."""
    wanted = {folded(task_stem(task)) for task in tasks}
    return [x for x in sorted(files) if _stems_of(x) & wanted]


def _stems_of(file: str) -> set[str]:
    """Return the folded stems of tasks that a file may hold."""
    stem = stem_of(file)
    head, tilde, number = stem.rpartition("~")
    return {stem, head} if tilde and number.isdecimal() else {stem}


def _alike(folder: Url, task: str) -> Iterator[Url]:
    """Yield the addresses, among those a file of the task may have, at which there is a file."""
    stem, gaps = task_stem(task), 0
    for number in range(1, _MOST_ALIKE):
        name = stem if number == 1 else f"{stem}~{number}"
        url = folder / f"{name}{TASK_SUFFIX}"
        if is_there(url):
            yield url
            continue
        # The first may lie under its name in capitals, which is another address; others may be
        # gone, or be a core's that was replaced.
        gaps += 1
        if gaps > _MOST_GAPS:
            return


def stem_of(file: str) -> str:
    """Return the stem of a task file's name, folded."""
    return folded(file.removesuffix(TASK_SUFFIX))


def folded(name: str) -> str:
    """Fold case and accents, so that names which some file system takes for one become equal."""
    return unicodedata.normalize("NFC", name).casefold()


def task_stem(task: str) -> str:
    """Return the stem of a task's file name, which is used unless another file has taken it."""
    name = task
    # A name that is no text is refused elsewhere, by its own words.
    while len(f"{name}{TASK_SUFFIX}".encode(errors="surrogatepass")) > _LONGEST - len(".tmp-") - 24:
        name = name[:-1]
    return name


def task_file_name(task: str, taken: set[str]) -> str:
    """Return a file name that is not too long and that no file system confuses with another.

    The manifest has the task's own name.

    taken: stems in use, as :func:`folded` gives them; the new one is added.
    """
    name = stem = task_stem(task)
    number = 1
    while folded(name) in taken:
        number += 1
        name = f"{stem}~{number}"
    taken.add(folded(name))
    return f"{name}{TASK_SUFFIX}"
