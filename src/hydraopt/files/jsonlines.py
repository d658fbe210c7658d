"""Files with a JSON value on each line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydraopt.errors import UsageError, explain
from hydraopt.files.reading import read_regular

__all__ = ["JsonLines", "json_lines"]


@dataclass(frozen=True)
class JsonLines:
    """Values of a file with their line numbers, from 1, and the hash of the file."""

    rows: tuple[tuple[int, Any], ...]
    sha256: str


def json_lines(file: Path, most: int) -> JsonLines:
    """Read a JSONL file; empty lines are left out.

    most: maximum size in bytes. Raises UsageError with the line that is not JSON, and for a file
    that cannot be read, is not UTF-8 or has no row.
    """
    try:
        data = read_regular(file, most)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        expected = "UTF-8" if isinstance(error, UnicodeDecodeError) else None
        raise UsageError(explain("cannot read", file=file, got=error, expected=expected)) from error
    rows = tuple(_rows(file, text))
    if not rows:
        raise UsageError(explain("the file has no rows", file=file, got="an empty file"))
    return JsonLines(rows, hashlib.sha256(data).hexdigest())


def _rows(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    # Not splitlines: strings of JSON may hold other ends of lines, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if "\\u" in line:
                json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates
        except (ValueError, RecursionError) as error:
            what = f"line {number} is not JSON"
            raise UsageError(explain(what, file=file, got=str(error))) from error
        yield number, value
