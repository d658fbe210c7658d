"""Answers that are kept in a folder, so that a job that was ended goes on where it was.

An answer follows from its question, and the question is its name: which adapters' numbers, which
item, at which price. So a file that is there is right, whoever wrote it and when; one that is
damaged counts as missing. Workers on several machines may share the folder.
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
        self, question: list[Any], make: Callable[[], tuple[Any, bytes]]
    ) -> tuple[Any, bytes]:
        """What ``make`` gives, something that JSON has and bytes, or gave when it was asked before.

        question: what the answer follows from, as JSON. Raises OSError if it cannot be written.
        """
        name = hashlib.sha256(json.dumps(question).encode()).hexdigest()
        path = self.folder / name[:2] / f"{name}{_SUFFIX}"
        kept = _read(path)
        if kept is None:
            head, data = make()
            text = json.dumps(head).encode()
            body = len(text).to_bytes(_HEAD, "little") + text + data
            os.makedirs(path.parent, exist_ok=True)
            write_atomically(path, [hashlib.sha256(body).digest(), body])
            kept = json.loads(text), data
        return kept


def _read(path: Path) -> tuple[Any, bytes] | None:
    """The answer in a file; None for none, and for one that is not whole."""
    with suppress(OSError, ValueError):
        data = path.read_bytes()
        check, body = data[:_CHECK], data[_CHECK:]
        if hashlib.sha256(body).digest() == check:
            start = _HEAD + int.from_bytes(body[:_HEAD], "little")
            return json.loads(body[_HEAD:start]), body[start:]
    return None
