"""Cache of fetched bytes by checksum, with a maximum size, and local copies of whole objects.

They lie under ``$HYDRAOPT_CACHE/remote`` (default ``~/.cache/hydraopt/remote``), a file for each.
``$HYDRAOPT_CACHE_SIZE`` is their maximum total size (default 4GB; 0 keeps nothing); the least
recently used go first. Readers check the bytes again. Nothing depends on the folder: where it
cannot be written, nothing is kept.

They lie in ``$HYDRAOPT_CACHE/.copies.tmp-*``, a folder of this process, which is removed when the
process ends. The folder of a killed process is removed by the next one.
"""

from __future__ import annotations

import atexit
import itertools
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from hydraopt.errors import UsageError, explain
from hydraopt.files.addresses import Url
from hydraopt.files.writing import scratch_folder

try:
    import fcntl
except ImportError:  # Windows, where two processes may be at it together.
    fcntl = None  # type: ignore[assignment]


@contextmanager
def alone(lock: Path) -> Iterator[int]:
    """Hold the lock, waiting for it; the descriptor of its file. Raises OSError."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


_DEFAULT: Final = "4GB"
_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE: Final = re.compile(r"(\d{1,15})\s*([KMGT]?B)?", re.IGNORECASE)
_KEY: Final = re.compile(r"[0-9a-f]{8,64}-\d+")
_LOCK: Final = ".lock"
_DIGITS: Final = 20


def cache_root(environment: Mapping[str, str] | None = None) -> Path:
    """Return the root folder of everything that hydraopt caches; the folder is not created here."""
    named = os.environ if environment is None else environment
    if root := named.get("HYDRAOPT_CACHE"):
        return Path(root)
    caches = named.get("XDG_CACHE_HOME", "")
    return (Path(caches) if os.path.isabs(caches) else Path.home() / ".cache") / "hydraopt"


def bytes_of(text: str, name: str) -> int:
    """Convert a size such as "500MB", "4GB", "0" to bytes. Raises UsageError, naming ``name``."""
    match = _SIZE.fullmatch(text.strip())
    unit = (match[2] or "").upper() if match else ""
    if match is None or (unit and unit not in _UNITS):
        raise UsageError(
            explain(f"{name} is no size", got=text[:40], expected="bytes, 500MB or 4GB")
        )
    return int(match[1]) * _UNITS[unit]


def remote_cache() -> Cache:
    """Return this machine's cache, as the environment configures it."""
    most = bytes_of(os.environ.get("HYDRAOPT_CACHE_SIZE") or _DEFAULT, "HYDRAOPT_CACHE_SIZE")
    return Cache(cache_root() / "remote", most)


class Cache:
    """Cache of bytes by key, which is their checksum and size.

    most: maximum total bytes.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most

    def get(self, checksum: str, size: int) -> bytes | None:
        """Return the data stored under the key if they have that size; None if nothing is there."""
        file = self._file(checksum, size)
        if file is None:
            return None
        try:
            data = file.read_bytes()
        except OSError:
            return None
        with suppress(OSError):  # Another's file can be read and not be touched.
            os.utime(file)
        return data if len(data) == size else None

    def put(self, checksum: str, data: bytes) -> None:
        """Keep bytes, in one step, if there is room for them at all."""
        file = self._file(checksum, len(data))
        if file is None or len(data) > self.most or not data:
            return
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with alone(self.folder / _LOCK) as lock:
                if file.exists():
                    return
                self._make_room(len(data), lock)
                handle, name = tempfile.mkstemp(dir=self.folder, suffix=".new")
                try:
                    with os.fdopen(handle, "wb") as stream:
                        stream.write(data)
                    os.replace(name, file)
                except BaseException:
                    with suppress(OSError):
                        os.unlink(name)
                    raise

    def drop(self, checksum: str, size: int) -> None:
        """Forget what is under the key."""
        file = self._file(checksum, size)
        if file is not None:
            with suppress(OSError):
                file.unlink()

    def size(self) -> int:
        """Return the bytes of everything in the cache."""
        return sum(size for _, size, _ in self._files())

    def _file(self, checksum: str, size: int) -> Path | None:
        key = f"{checksum}-{size}"
        return self.folder / key if _KEY.fullmatch(key) and self.most else None

    def _files(self) -> list[tuple[float, int, Path]]:
        """Return (time of last use, bytes, file) of all files, including those never finished."""
        files = []
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.name != _LOCK and entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        files.append((status.st_mtime, status.st_size, Path(entry.path)))
        return files

    def _make_room(self, size: int, lock: int) -> None:
        """Delete entries until the new one fits, and a tenth more.

        The lock file states the bytes of all, or more if something was dropped, so that the folder
        is listed only when they pass the bound.
        """
        os.lseek(lock, 0, os.SEEK_SET)
        digits = os.read(lock, _DIGITS)
        kept = int(digits) if len(digits) == _DIGITS and digits.isdigit() else self.most
        if kept + size > self.most:
            kept = self._without_oldest(size)
        # Before the bytes come: whoever dies in between has counted too much, not too little.
        os.lseek(lock, 0, os.SEEK_SET)
        os.write(lock, b"%0*d" % (_DIGITS, kept + size))

    def _without_oldest(self, size: int) -> int:
        """Delete what was not used for longest; return the bytes that stay.

        If ``size`` does not fit, a tenth of the limit stays free beside it: otherwise every later
        entry would list the folder again.
        """
        files = sorted(self._files())
        kept = sum(count for _, count, _ in files)
        most = self.most if kept + size <= self.most else max(self.most - self.most // 10, size)
        for _, count, file in files:
            # What a killed writer left is nobody's: writers hold the lock.
            if kept + size <= most and file.suffix != ".new":
                continue
            file.unlink(missing_ok=True)
            kept -= count
        return kept


_one = threading.Lock()
_numbers = itertools.count()
_folders: dict[int, Path] = {}
_origins: dict[Path, Url] = {}


def new_folder(origin: Url) -> Path:
    """Create an empty folder for copies from an address."""
    process = os.getpid()
    with _one:
        if process not in _folders:
            stack = ExitStack()
            _folders[process] = stack.enter_context(scratch_folder(_root() / "copies"))
            atexit.register(_close, process, stack)
    folder = _folders[process] / str(next(_numbers))
    folder.mkdir(parents=True)  # somebody may have cleared the cache
    _origins[folder] = origin
    return folder


def _root() -> Path:
    """Return the cache's folder, or the system's temporary one where no cache can be created.

    That is the case on read-only disks; copies go with the process.
    """
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return root
    except OSError:
        pass
    return Path(tempfile.gettempdir())


def origin_of(path: Path) -> Url | None:
    """Return the address of origin of a copy or its folder; None for any other path."""
    for folder in (path, *path.parents[:1]):
        if folder in _origins:
            return _origins[folder] if folder == path else _origins[folder] / path.name
    return None


def _close(process: int, stack: ExitStack) -> None:
    # A fork that ends must not take away what its parent reads.
    if process == os.getpid():
        stack.close()
