"""Replace a file, or the files of a folder, so that a killed writer leaves no half of them.

A folder is not exchanged for another in one step: few systems can, something may be mounted at it
or in it, and a shell may work in it.

All new files lie in the folder, complete, before the first of them takes its place: in a folder
".replacing.tmp", which appears in one step. A writer that is killed before leaves the old files;
after it, what the next writer finishes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hydraopt.errors import LockedError, UsageError, explain
from hydraopt.files.addresses import Url, is_url, place_of
from hydraopt.files.outputs import CORE_SUFFIX, destination
from hydraopt.files.reading import read_regular

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked.
    fcntl = None  # type: ignore[assignment]


NEW: Final = "new"
"""Name of the folder for new files inside the scratch folder."""
_REPLACING: Final = ".replacing.tmp"
_GONE: Final = "gone"
"""Name of the file that lists the files to remove; without it all work is done."""
_MOST_GONE: Final = 1 << 30
"""Maximum bytes of the list."""
_STOPS: Final = (".json", CORE_SUFFIX)
"""Endings of the files without which no loader takes a folder for an adapter, a model or a
collection."""


def is_unfinished(folder: Path) -> bool:
    """Return True if a writer is replacing the folder's files, or was killed while doing so."""
    return os.path.lexists(folder / _REPLACING)


def replace_one_by_one(scratch: Path, folder: Path, gone: Collection[str]) -> None:
    """Put the synced files of ``scratch / NEW`` into a folder and remove those named ``gone``.

    Raises OSError, before anything changes, if a folder has a file's name.

    scratch: a folder of the same file system, which becomes a part of the folder, and then
    vanishes. Its lock is the caller's.
    """
    for name in os.listdir(scratch / NEW):
        if _is_own_folder(folder / name):
            raise IsADirectoryError(errno.EISDIR, "a folder is in the way", str(folder / name))
    with (scratch / _GONE).open("xb") as stream:
        stream.write(b"\0".join(map(os.fsencode, sorted(gone))))
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(scratch)
    os.rename(scratch, folder / _REPLACING)
    sync_folder(folder)
    _roll_forward(folder)


def finish_replacing(folder: Path) -> None:
    """Finish the work of a killed writer in a folder.

    Raises LockedError if the writer lives, UsageError for files that no writer left, and OSError.
    """
    if not is_unfinished(folder):
        return
    pending = folder / _REPLACING
    if pending.is_symlink() or not pending.is_dir() or (pending / NEW).is_symlink():
        raise _refused(pending)
    if fcntl is None:
        _roll_forward(folder)
        return
    descriptor = os.open(pending, os.O_RDONLY)
    try:
        _lock_folder(descriptor, folder)
        if os.fstat(descriptor).st_nlink > 0:
            _roll_forward(folder)
    finally:
        os.close(descriptor)


def _lock_folder(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        what = "another process is replacing the files of the folder"
        do = "Wait until it is done, and try again"
        raise LockedError(explain(what, file=folder, do=do)) from None
    except OSError:
        pass  # some network file systems have no locks


def _is_own_folder(path: Path) -> bool:
    """Return whether a folder is there; a link to one is a name like any other."""
    return path.is_dir() and not path.is_symlink()


def _roll_forward(folder: Path) -> None:
    """Remove old files and put new ones in place, as far as that is not done.

    Files that loaders look for go first and come last, so that in between they find no adapter, no
    model and no collection.
    """
    pending = folder / _REPLACING
    try:
        gone = _names_in(pending / _GONE)
    except FileNotFoundError:
        shutil.rmtree(pending, ignore_errors=True)
        return
    new = sorted(os.listdir(pending / NEW))
    stops = [x for x in new if x.endswith(_STOPS)]
    for name in sorted({*gone, *stops}, key=lambda x: (not x.endswith(_STOPS), x)):
        if not _is_own_folder(folder / name):
            (folder / name).unlink(missing_ok=True)
    sync_folder(folder)
    for name in [*(x for x in new if not x.endswith(_STOPS)), *stops]:
        os.replace(pending / NEW / name, folder / name)
    sync_folder(folder)
    (pending / _GONE).unlink()
    shutil.rmtree(pending, ignore_errors=True)


def _names_in(file: Path) -> list[str]:
    """Return the names in a list.

    Raises UsageError for an invalid list, FileNotFoundError, OSError.
    """
    names = [os.fsdecode(x) for x in read_regular(file, _MOST_GONE).split(b"\0") if x]
    if any(x in (".", "..") or os.path.basename(x) != x for x in names):
        raise _refused(file.parent)
    return names


def _refused(pending: Path) -> UsageError:
    do = "Look at what is in it, and delete it"
    return UsageError(explain("a folder has a name that writers give theirs", file=pending, do=do))


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut, if the system can open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


try:
    import fcntl
except ImportError:  # Windows, where nothing is locked and leftovers stay.
    fcntl = None  # type: ignore[assignment]


_SCRATCH: Final = re.compile(r"\..+\.tmp-[0-9a-f]{16}", re.DOTALL)
"""Names of unfinished files and folders."""
_MOST_SCRATCHES: Final = 8
"""Number of scratch names that may be lost to another writer before the next is used unchecked."""


def write_atomically(path: str | os.PathLike[str], chunks: Iterable[bytes]) -> int:
    """Write a file so that at every moment its name stands for the old or the new content.

    The bytes are synced before they replace the target in one step. A link is replaced: who writes
    what a user named asks :func:`hydraopt.files.outputs.destination` first. A file that is replaced
    keeps its mode and, where the system lets us, its owner. Returns the size. On failure nothing is
    left behind. Raises OSError, naming the target; a device or a FIFO is no target. An address is
    written whole or not at all, too; RemoteError.
    """
    if is_url(path):
        return _sent(Url(os.fspath(path)), b"".join(chunks))
    target = _target(place_of(path))
    _clean(target)
    try:
        with _scratch_file(target) as (scratch, descriptor):
            _write(descriptor, chunks)
            size = os.fstat(descriptor).st_size
            _like(target, descriptor)
            os.fsync(descriptor)
            os.replace(scratch, target)
    except OSError as error:
        raise _named(error, path) from error
    sync_folder(target.parent)
    return size


def write_new(path: Path, chunks: Iterable[bytes]) -> int:
    """Write and sync a new file of a :func:`replaced_folder`; return its size. Raises OSError."""
    with path.open("xb") as stream:
        _write(stream.fileno(), chunks)
        os.fsync(stream.fileno())
        return os.fstat(stream.fileno()).st_size


def _sent(url: Url, data: bytes) -> int:
    from hydraopt.files.stores import patiently, store_of  # who writes here needs no store

    patiently(lambda: store_of(url).put(url, data), url)
    return len(data)


@contextmanager
def replaced_file(path: str | os.PathLike[str], suffix: str) -> Iterator[Path]:
    """Yield a name to write a file to; it becomes ``path`` if the block succeeds, else vanishes.

    suffix: suffix of that name, since some libraries go by it.

    For files that other libraries write, and that are read back before they appear. Otherwise as
    :func:`write_atomically`, except that a link is followed as by
    :func:`hydraopt.files.outputs.destination`. A missing folder is created.
    """
    target = _target(destination(Path(path)))
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target) as scratch:
        made = scratch / f"new{suffix}"
        yield made
        with made.open("rb") as stream:
            _like(target, stream.fileno())
            os.fsync(stream.fileno())
        os.replace(made, target)
        sync_folder(target.parent)


@contextmanager
def replaced_folder(
    path: str | os.PathLike[str], stale: Callable[[str], bool] = lambda name: False
) -> Iterator[Path]:
    """Yield a folder to write into; its files become those of ``path`` if the block succeeds.

    A new folder appears in one step. The files of an existing one are replaced as
    :mod:`hydraopt.files.writing` describes, after what a killed writer had still to do there;
    files that have no counterpart among the new ones stay, unless they are ``stale`` by name. Files
    keep their modes, and groups and owners where the system permits. A link to the target is
    followed as by :func:`hydraopt.files.outputs.destination`; links in it are not.

    Raises OSError, LockedError and UsageError as :func:`hydraopt.files.writing.finish_replacing`.
    """
    target = destination(Path(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    finish_replacing(target)
    clean(target)
    # Inside an existing folder: another file system may be mounted there.
    with scratch_folder(target / target.name if target.is_dir() else target) as scratch:
        made = scratch / NEW
        made.mkdir()
        yield made
        sync_folder(made)
        if target.is_dir():
            _like(target, scratch)  # who may write there may finish it
            for new in made.iterdir():
                _like(target / new.name, new)
            others = {x.name for x in target.iterdir()} - {x.name for x in made.iterdir()}
            replace_one_by_one(scratch, target, {name for name in others if stale(name)})
        else:
            os.replace(made, target)
        sync_folder(target.parent)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Yield a new, locked folder beside the target; it is removed with its contents in the end."""
    _clean(target)
    scratch, lock = _locked(target, _new_folder)
    try:
        yield scratch
    finally:
        os.close(lock)
        shutil.rmtree(scratch, ignore_errors=True)


def _target(path: str | os.PathLike[str]) -> Path:
    """Return the path to write to: that of a file, a link or nothing."""
    target = Path(path)
    if target.name in ("", ".."):
        target = Path(os.path.realpath(target))
    else:
        target = Path(os.path.realpath(target.parent), target.name)
    with contextlib.suppress(FileNotFoundError):
        mode = target.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(code, "not a regular file, which alone can be replaced", os.fspath(path))
    return target


def _named(error: OSError, path: str | os.PathLike[str]) -> OSError:
    """Return the error with the file that the caller knows in place of the scratch file."""
    return type(error)(error.errno, error.strerror or str(error), os.fspath(path))


def _scratch_name(target: Path) -> str:
    return f".{target.name}.tmp-{secrets.token_hex(8)}"


@contextmanager
def _scratch_file(target: Path) -> Iterator[tuple[Path, int]]:
    """Yield a new, locked file beside the target; remove it unless it has got another name."""
    scratch, descriptor = _locked(target, _new_file)
    try:
        yield scratch, descriptor
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            scratch.unlink()


def _write(descriptor: int, chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _like(target: Path, made: Path | int) -> None:
    """Give a new path or descriptor the owner, group and mode of the file that it replaces.

    A link has none. A process that may not give the owner may give the group. The mode follows in
    any case, because a private file must not become readable by all.
    """
    with contextlib.suppress(OSError):
        old, new = target.lstat(), os.stat(made)
        if stat.S_ISLNK(old.st_mode):
            return
        for owner, group in ((old.st_uid, -1), (-1, old.st_gid)):
            if owner not in (-1, new.st_uid) or group not in (-1, new.st_gid):
                with contextlib.suppress(OSError):
                    os.chown(made, owner, group)
        os.chmod(made, stat.S_IMODE(old.st_mode))


def _locked(target: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Create a locked scratch beside the target; return it and its descriptor.

    Before it is locked, another writer may take it for abandoned and remove it; then another is
    created. Where neither locks nor links work as they should, the last one is taken.
    """
    for left in range(_MOST_SCRATCHES, -1, -1):
        scratch = target.with_name(_scratch_name(target))
        try:
            descriptor = make(scratch)
        except FileNotFoundError:
            if left and target.parent.is_dir():
                continue
            raise
        if not left or (_lock(descriptor) and os.fstat(descriptor).st_nlink > 0):
            return scratch, descriptor
        os.close(descriptor)
        with contextlib.suppress(OSError):
            scratch.rmdir() if scratch.is_dir() else scratch.unlink()
    raise AssertionError("the last one is taken")


def _new_folder(path: Path) -> int:
    path.mkdir(mode=0o700)
    return os.open(path, os.O_RDONLY)


def _new_file(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o666)


def _lock(descriptor: int) -> bool:
    """Lock the open file; return False if another process holds it.

    Where nothing can be locked, as on some network file systems, return True; leftovers stay there.
    """
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True


def _clean(target: Path) -> None:
    """Remove what killed writers left beside a target; those that live hold a lock."""
    if fcntl is None:
        return
    prefix = f".{target.name}.tmp-"
    with contextlib.suppress(OSError):
        for name in os.listdir(target.parent):
            if name.startswith(prefix) and len(name) == len(prefix) + 16:
                _remove_if_dead(target.parent / name)


def clean(folder: Path) -> None:
    """Remove what killed writers left of a folder, beside it and in it."""
    if fcntl is None:
        return
    folder = Path(os.path.realpath(folder))
    _clean(folder)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if _SCRATCH.fullmatch(name):
                _remove_if_dead(folder / name)


def _remove_if_dead(path: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(descriptor)
