"""Names of the files of a bundle in several files."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from hydraopt.errors import BundleFormatError, UsageError, explain
from hydraopt.files import (
    CORE_SUFFIX,
    TASK_SUFFIX,
    AnyPath,
    is_unfinished,
)

_LONGEST_NAME: Final = 255
"""Maximum bytes of a file name."""


def refuse_unlisted(path: AnyPath) -> NoReturn:
    """Raise UsageError for a folder over HTTP, or a core file in one, that lists nothing."""
    do = "Put its index beside it: hydraopt refresh or split writes one"
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
    while (
        len(f"{name}{TASK_SUFFIX}".encode(errors="surrogatepass"))
        > _LONGEST_NAME - len(".tmp-") - 24
    ):
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


"""Maximum characters of a mark or a name."""
