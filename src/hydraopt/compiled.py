"""Compilation of the inner loops: numba's njit, with a cache wherever a folder can hold one.

numba refuses to cache a function if neither the package's folder nor the home folder can be
written, as in a read-only container. Here such a function is cached in a private temporary folder,
and where there is none, each process compiles it again. Cached code is pickled, so anyone who can
write to a cache can run code: a folder is used only if it belongs to this user alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, cached_property, update_wrapper
from pathlib import Path
from typing import Any, Final, TypeVar

from hydraopt.errors import MemoryLimitError, explain
from hydraopt.notes import Note

__all__ = [
    "INLINED",
    "INNER",
    "LENT",
    "check_memory",
    "njit",
    "own_place",
    "private_folder",
    "say_unkept",
]

INLINED: Final[Mapping[str, Any]] = {"error_model": "numpy", "forceinline": True}
"""Options of every function in machine code that is kept: divisions do not raise, and calls, which
might, are inlined."""
LENT: Final[Mapping[str, Any]] = {
    "cache": True,
    "nogil": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
    **INLINED,
}
"""Options of a function that allocates nothing and is called from Python: references to its arrays
are not counted, which would take longer than coding a number."""
INNER: Final[Mapping[str, Any]] = {
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
    **INLINED,
}
"""Options of a function that allocates nothing and that only compiled functions call. It is inlined
there, so it needs no cache and no wrapper for Python, which takes a third of the compilation."""

Function = TypeVar("Function", bound=Callable[..., Any])

NEEDED = 500 << 20
"""Bytes of address space that numba and its compiler take at most, loaded and at work; measured."""


def _say(note: Note) -> None:
    """Issue a note as a warning, on stderr unless the calling program redirects it."""
    import logging

    logging.getLogger("hydraopt").warning("note: %s", note.text)


def njit(**options: Any) -> Callable[[Function], Function]:
    """Compile with numba.njit at the first call, or when another function inlines it.

    With cache=True the machine code is kept between processes where it can be. First numba's own
    places: $NUMBA_CACHE_DIR, beside the source, the user's cache folder. Then hydraopt-UID in the
    folder for temporary files, mode 0700. Then none. The last two are said once for each process,
    as a warning of the logger "hydraopt".

    The function raises MemoryLimitError if the process may not take the memory that compiling
    needs: LLVM ends the process where it runs out.
    """

    def compiled(function: Function) -> Function:
        if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
            return function
        return _Compiled(function, options)  # type: ignore[return-value]

    return compiled


class _Compiled:
    """Function that numba compiles; nothing is loaded before its first use.

    numba takes one for the dispatcher it stands for, since it has all attributes of it.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        update_wrapper(self, function)
        self._function, self._options = function, options

    @cached_property
    def _dispatcher(self) -> Any:
        _check_once()
        import numba

        options = dict(self._options)
        caching = options.pop("cache", False)
        made: Any = numba.njit(**options)(self._function)
        if caching:
            _keep(made)
        return made

    def __call__(self, *arguments: Any) -> Any:
        return self._dispatcher(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)


def _keep(made: Any) -> None:
    """Give a dispatcher of numba's the first cache that there is."""
    if own_place():
        try:
            made.enable_caching()
        except (RuntimeError, OSError):  # numba has found no folder that it can write
            pass
        else:
            _forgive(made)
            return
    folder = private_folder()
    if folder is None:
        return
    try:
        with _placed(folder):
            made.enable_caching()
    except (RuntimeError, OSError):
        return
    _forgive(made)


def own_place() -> bool:
    """Return whether numba may choose a folder itself.

    Without a home folder, numba takes "~" as the name of a folder in the current one, which may
    belong to another user.
    """
    named = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return bool(named) or os.path.isabs(os.path.expanduser("~"))


@contextmanager
def _placed(folder: Path) -> Iterator[None]:
    """Place numba's cache at `folder` for the functions that ask for one meanwhile."""
    import numba

    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


@cache
def private_folder() -> Path | None:
    """Return a folder for temporary files that only this user can write, or None.

    Either is reported once.
    """
    import tempfile

    remedy = "Set NUMBA_CACHE_DIR to a folder of yours that can be written."
    try:
        folder = Path(tempfile.gettempdir()) / f"hydraopt-{os.geteuid()}"
        if not _safe_parent(folder.parent):
            raise PermissionError(folder.parent)
        if not _is_ours(folder):
            folder = Path(tempfile.mkdtemp(prefix="hydraopt-"))
    except (OSError, AttributeError):  # Windows has no geteuid, and a home folder always
        text = f"no folder for compiled code, so each run compiles anew. {remedy}"
        _say(Note("compiled_code_not_kept", text))
        return None
    text = f"compiled code is kept in {folder}. {remedy}"
    _say(Note("compiled_code", text, str(folder)))
    return folder


def _safe_parent(parent: Path) -> bool:
    """Return whether only this user and root can replace one of our folders in ``parent``."""
    status = parent.stat()
    open_to_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid in (0, os.geteuid()) and bool(
        not open_to_others or status.st_mode & stat.S_ISVTX
    )


def _is_ours(folder: Path) -> bool:
    """Return whether the folder, created if missing, is accessible to this user only."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    )


def _forgive(made: Any) -> None:
    """Continue without a cache that cannot be read or written: the disk may be full."""
    kept = getattr(made, "_cache", None)
    if kept is None:
        return
    load, save = kept.load_overload, kept.save_overload

    def load_overload(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception:  # of a damaged pickle, anything
            return None

    def save_overload(*arguments: Any) -> None:
        try:
            try:
                save(*arguments)
            except OSError:
                raise
            except Exception:  # the index is damaged
                kept.flush()
                save(*arguments)
        except Exception as error:
            say_unkept(getattr(error, "strerror", None) or str(error))

    kept.load_overload, kept.save_overload = load_overload, save_overload


@cache
def say_unkept(reason: str) -> None:
    """Log once for each reason that compiled code is not kept."""
    _say(Note("compiled_code_not_kept", f"compiled code could not be kept: {reason}."))


def check_memory(needed: int = NEEDED) -> None:
    """Raise MemoryLimitError where the limit of the address space leaves less than needed bytes.

    Libraries in C end the process where they get no memory, so nothing can be said afterwards.
    """
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return  # no such limit here, or no way to know what is taken
    if limit != resource.RLIM_INFINITY and limit - taken < needed:
        raise MemoryLimitError(
            explain(
                "the limit of this process's memory (ulimit -v) is too low",
                got=f"{max(limit - taken, 0) >> 20} MiB left of {limit >> 20}",
                expected=f"{needed >> 20} MiB or more",
                do="Raise the limit",
            )
        )


_check_once = cache(check_memory)
