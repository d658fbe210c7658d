"""Answers that are kept in a folder, so that a job that was ended goes on where it was.

An answer follows from its question: which adapters' numbers, which item, at which price. The hash
of the question is the name of the file and a part of its checksum, so a file answers this question
or counts as missing, as one that is damaged does. Workers on several machines may
share the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydraopt.files.reading import open_regular
from hydraopt.files.writing import write_atomically

__all__ = ["Shards"]

_SUFFIX: Final = ".shard"
_CHECK: Final = 32
_HEAD: Final = 4


@dataclass(frozen=True)
class Shards:
    """Shards below ``folder``, which is made when it is needed."""

    folder: Path

    def answer(
        self,
        question: list[Any],
        make: Callable[[], tuple[Any, bytes]],
    ) -> tuple[Any, bytes]:
        """Return the answer that ``make`` gives, or gave before.

        question: what the answer follows from, as JSON. make: gives something that JSON has, and
        bytes. Raises OSError if an answer cannot be written.
        """
        key = hashlib.sha256(json.dumps(question).encode())
        name = key.hexdigest()
        path = self.folder / name[:2] / f"{name}{_SUFFIX}"
        with suppress(OSError, ValueError, RecursionError):
            return _kept(path, key.digest())
        head, data = make()
        text = json.dumps(head).encode()
        body = len(text).to_bytes(_HEAD, "little") + text + data
        os.makedirs(path.parent, exist_ok=True)
        write_atomically(path, [_check(key.digest(), body), body])
        return head, data


def _check(question: bytes, body: bytes) -> bytes:
    return hashlib.sha256(question + body).digest()


def _kept(path: Path, question: bytes) -> tuple[Any, bytes]:
    """Return the answer in a file.

    Raises OSError for no file, ValueError for one that is incomplete or of another question.
    """
    with open_regular(path) as file:
        data = file.read()
    check, body = data[:_CHECK], data[_CHECK:]
    if _check(question, body) != check:
        raise ValueError("not the answer to this question")
    start = _HEAD + int.from_bytes(body[:_HEAD], "little")
    return json.loads(body[_HEAD:start]), body[start:]
