"""Lock for one writer at a time in a store: an object ".NAME.lock", created only if missing.

Stores that create objects so in one step protect a collection from two writers (S3 and compatible
stores, Google's, memory). Unlike a lock of the system it does not end with its holder: after a
crash it stays, names its creator, and is deleted by hand.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from hydraopt.errors import LockedError, NotThereError, RemoteError, explain
from hydraopt.files.folders import lock_name
from hydraopt.files.ranges import RemoteFile
from hydraopt.files.stores import patiently, store_of
from hydraopt.files.url import Url

__all__ = ["locked_in_store"]

_MOST = 4096


@contextmanager
def locked_in_store(url: Url, path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock of an object.

    path: name of the object in errors.

    Raises LockedError, which names the holder; RemoteError.
    """
    lock = url.with_name(lock_name(url.name))
    mine = {
        "host": platform.node(),
        "process": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": secrets.token_hex(16),
    }
    data = json.dumps(mine).encode()
    if url.is_web:  # which refuses every write: by the name that was given, not that of the lock
        store_of(url).create(path if isinstance(path, Url) else Url(os.fspath(path)), b"")
    created = patiently(lambda: store_of(lock).create(lock, data), lock)
    if not created and _holder(lock).get("token") != mine["token"]:
        # Of the same token: it was made, and the answer that said so was lost.
        _refuse(path, lock)
    try:
        yield
    finally:
        # What was written counts; whoever finds the lock is told how to go on.
        with suppress(RemoteError):
            patiently(lambda: store_of(lock).remove(lock), lock)


def _holder(lock: Url) -> dict[str, Any]:
    try:
        file = RemoteFile(lock)
        value = json.loads(file.read(0, min(file.size, _MOST)))
    except (NotThereError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _refuse(path: str | os.PathLike[str], lock: Url) -> None:
    holder = _holder(lock)
    known = {"host", "process", "since"} <= holder.keys()
    who = f"{holder['process']} on {holder['host']} since {holder['since']}" if known else None
    raise LockedError(
        explain(
            "another process is changing the collection",
            file=path,
            got=f"a lock of process {who}" if who else "a lock",
            do=f"Wait until it is done, and try again; if it no longer runs, delete {lock}",
        )
    )
