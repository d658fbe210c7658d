"""Local copies of objects that are read whole from a store: an adapter's weights and config.

They lie in ``$HYDRAOPT_CACHE/.copies.tmp-*``, a folder of this process, which is removed when the
process ends. The folder of a killed process is removed by the next one.
"""

from __future__ import annotations

import atexit
import itertools
import os
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from hydraopt.files.cache import cache_root
from hydraopt.files.url import Url
from hydraopt.files.writing import scratch_folder

__all__ = ["new_folder", "origin_of"]

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
