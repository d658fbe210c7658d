"""Rows of other people's files, bounded, and the refusals of those that are not what they seem."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydraopt.errors import UsageError, explain
from hydraopt.files.reading import read_regular

__all__ = [
    "Loaded",
    "json_rows",
    "listed",
    "refuse",
    "table_rows",
    "text_of",
    "writable",
]

MOST_BYTES: Final = 128 << 20
"""Maximum size of a file of items, in bytes."""
_MOST_COLUMNS: Final = 20
_MOST_LETTERS: Final = 40
"""Maximum number of characters of a column name in a message."""


@dataclass
class Loaded:
    """Items of one file. left_out: by reason, how many rows make no item."""

    items: list[Any]
    left_out: dict[str, int]

    def skip(self, why: str, count: int = 1) -> None:
        """Count rows that make no item."""
        self.left_out[why] = self.left_out.get(why, 0) + count


def refuse(path: Path, what: str, got: object = None, expected: str | None = None) -> UsageError:
    """Return an error that names the file; raised by the caller."""
    return UsageError(
        explain(what, file=path, got=got, expected=expected, do="Get the file again, unchanged")
    )


def text_of(path: Path) -> str:
    """Read the whole file as text. Raises UsageError if it is not text, or too large."""
    try:
        return read_regular(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(path, "cannot read the probe", got=error) from None


def table_rows(path: Path, columns: tuple[str, ...], separator: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV or TSV file with at least these columns. Raises UsageError."""
    reader = csv.DictReader(io.StringIO(text_of(path)), delimiter=separator)
    try:
        _check(path, "", columns, reader.fieldnames or ())
        for row in reader:
            if any(row[name] is None for name in columns):
                raise refuse(path, f"line {reader.line_num} is cut", expected=", ".join(columns))
            yield row
    except csv.Error as error:
        raise refuse(path, f"line {reader.line_num} is no row", got=error) from None


def json_rows(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (line, object) of a JSONL file of objects with at least these keys.

    Raises UsageError.
    """
    # Strings of JSON may hold other ends of lines, such as U+2028.
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
                if "\\u" in line:
                    json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates
            except (ValueError, RecursionError) as error:
                raise refuse(path, f"line {number} is no JSON", got=error) from None
            if not isinstance(value, dict):
                raise refuse(path, f"line {number} is no object", got=line[:60])
            _check(path, f"line {number} has ", keys, list(value))
            yield number, value


def _check(path: Path, where: str, wanted: Sequence[str], got: Sequence[str]) -> None:
    """Raise UsageError unless all columns are there."""
    missing = [name for name in wanted if name not in got]
    if missing:
        what = f"{where}no column {listed(missing)}"
        raise refuse(path, what, got=listed(got) or "none", expected=listed(wanted))


def writable(text: str) -> str:
    """Return a name as text that any file can hold: half a character becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def listed(columns: Sequence[str]) -> str:
    """Return the names of columns in a line; long names and long lists are cut."""
    shown = [writable(x[:_MOST_LETTERS]) or "''" for x in columns[:_MOST_COLUMNS]]
    further = len(columns) - len(shown)
    return ", ".join(shown) + (f" and {further} further" if further else "")
