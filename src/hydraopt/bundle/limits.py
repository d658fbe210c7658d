"""Limits on what a bundle may make its reader allocate or decode, relative to its size in bytes.

A file of a few bytes can name millions of things, and a stream of zeros stands for any number of
them. Everything is counted before work begins. Real bundles are far below: the examples at 1 % of
fp16 stand for 7 numbers a byte. docs/reference/format.md has the limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from hydraopt.bundle.entries import CarriedBlob
from hydraopt.codec import MOST_NUMBERS_OF_FILE, ChunkReader, KnownStart, StreamReader
from hydraopt.errors import BundleFormatError, explain
from hydraopt.files import AnyPath

T = TypeVar("T")

AGAIN: Final = "Fetch the bundle again or restore a copy"

_Limit = tuple[int, int]
"""Amount that is always allowed, and the additional amount per byte."""
_TEXT: Final = 1 << 20, 64
_CARRIED: Final = 1 << 24, 256
_ENTRIES: Final = 1 << 17, 2
_CONFIGS: Final = 1 << 24, 64
_DRAWN: Final = 1 << 24, 4096
_LEADS: Final = ("modules", "path"), ("tensors", "key")


class Allowance:
    """Remaining count of numbers that a bundle's streams may decode to; each stream counts once.

    size: total bytes of all streams in the file.
    """

    def __init__(self, size: int) -> None:
        self._most = _at_most(MOST_NUMBERS_OF_FILE, size)
        self._spent: dict[str, int] = {}

    def open(self, name: str, data: bytes, records: int) -> StreamReader:
        """Return a reader of the stream ``name``, limited to the numbers that remain.

        records: number of records in the stream.
        """
        self._spent[name] = 0

        def spend(numbers: int) -> None:
            self._spent[name] += numbers
            if sum(self._spent.values()) > self._most:
                raise BundleFormatError(
                    explain(
                        f"{name} stands for more numbers than the bytes of the file can hold",
                        got=sum(self._spent.values()),
                        expected=f"at most {self._most}",
                        do=AGAIN,
                    )
                )

        return ChunkReader(data, records, spend)


def count_entries(value: Any, core: Any = None) -> int:
    """Count the entries of a manifest, relying only on the lengths of its lists and texts.

    value: the parsed JSON.
    core: parsed JSON of the core, for a task file.
    """
    if not isinstance(value, dict):
        return 0
    of = core if isinstance(core, dict) else value
    modules, tensors = (len(_column(of.get(x), y)) for x, y in _LEADS)
    tasks = value.get("tasks")
    names = len(_column(tasks, "name"))
    blobs = value.get("blobs")
    items = [len(_column(x, "key")) for x in blobs] if isinstance(blobs, list) else []
    entries = names + sum(items) + (0 if core else modules + tensors)
    if isinstance(tasks, dict):
        for name, column in {"modules": {"=": "all"}, **tasks}.items():
            all_of = tensors if name == "tensors" else modules
            lengths = [_length(name, x, all_of, items) for x in _cells(column)]
            entries += sum(lengths) * (names if isinstance(column, Mapping) else 1)
    return entries


def check_entries(entries: int, size: int) -> None:
    """Refuse more entries than files of ``size`` bytes may have; raises BundleFormatError."""
    _limit("entries of modules, tasks and their lists", entries, size, _ENTRIES)


def check_manifest(value: Any, size: int) -> None:
    """Refuse a parsed manifest that stands for more than a file of ``size`` bytes may.

    Raises BundleFormatError.
    """
    check_entries(count_entries(value), size)
    configs = value.get("configs") if isinstance(value, dict) else None
    if isinstance(configs, list) and configs:
        _limit("bytes of configs", len(configs) * _weight(configs[0]), size, _CONFIGS)


def most_text(packed: int) -> int:
    """Return the largest size of a manifest's JSON for so many packed bytes."""
    return _at_most(_TEXT, packed)


def check_text(size: int, packed: int) -> None:
    """Refuse a manifest of ``size`` bytes that is far more than the ``packed`` that hold it."""
    _limit("bytes of the manifest", size, packed, _TEXT)


def check_blobs(blobs: Sequence[CarriedBlob], packed: int) -> None:
    """Refuse carried tensors that are far more bytes than the ``packed`` that hold them."""
    whole = sum(item.nbytes for blob in blobs for item in blob.items)
    _limit("bytes of carried tensors", whole, packed, _CARRIED)


def most_drawn(size: int) -> int:
    """Return how many numbers the starts of tasks may draw, for streams of so many bytes."""
    return _at_most(_DRAWN, size)


def check_starts(starts: Iterable[KnownStart], size: int) -> None:
    """Refuse starts that draw more numbers than streams of ``size`` bytes may."""
    _limit("numbers of starts", sum(x.numbers for x in starts), size, _DRAWN)


@contextmanager
def naming(file: AnyPath) -> Iterator[None]:
    """Add the file's name and a remedy to a BundleFormatError raised inside the context."""
    try:
        yield
    except BundleFormatError as error:
        text = str(error)
        if str(file) in text:
            raise
        remedy = "" if AGAIN in text else f" {AGAIN}."
        raise type(error)(error.within(f"{file}: ", remedy, file=file)) from error


def each_naming(items: Iterator[T], file: AnyPath) -> Iterator[T]:
    """Yield the items; an error while one is made names the file, as :func:`naming` does.

    A generator that stops inside ``with naming`` cannot be closed at the end of the process, when
    the exception's name is gone from this module.
    """
    while True:
        with naming(file):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def _at_most(limit: _Limit, size: int) -> int:
    return limit[0] + limit[1] * size


def _limit(what: str, count: int, size: int, limit: _Limit) -> None:
    most = _at_most(limit, size)
    if count > most:
        raise BundleFormatError(
            explain(f"too many {what} for the bytes there are", got=count, expected=most)
        )


def _column(table: Any, lead: str) -> list[Any]:
    column = table.get(lead) if isinstance(table, Mapping) else None
    return column if isinstance(column, list) else []


def _cells(column: Any) -> list[Any]:
    """Return the values of a column, or the single value if it stands for all rows."""
    if isinstance(column, Mapping):
        return list(column.values())
    return column if isinstance(column, list) else []


def _length(name: str, value: Any, all_of: int, items: Sequence[int]) -> int:
    """Return the number of entries that a cell of column ``name`` of the task table stands for."""
    if name in ("modules", "tensors"):
        if not isinstance(value, list) or not all(type(x) is int for x in value):
            return all_of
        ranges = zip(value[::2], value[1::2], strict=False)
        return sum(max(b - a, 0) for a, b in ranges)
    if not isinstance(value, Mapping | list):
        return 0
    if name == "carried":
        indices = [x for x in value if type(x) is int and 0 <= x < len(items)]
        return len(value) + sum(items[i] for i in indices)
    return len(value)


def _weight(value: Any) -> int:
    """Return the approximate number of bytes of a JSON value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return 2 + sum(len(key) + _weight(x) for key, x in value.items())
    if isinstance(value, list):
        return 2 + sum(map(_weight, value))
    # A whole number may have thousands of digits; others are written with two dozen at most.
    return max(len(str(value)), 8) if type(value) is int else 8
