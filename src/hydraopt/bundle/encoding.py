"""Small, strict, canonical JSON, and the safetensors container around it.

The manifest is JSON so that a stranger can read it, and short because every bundle carries it.
Whatever does not have exactly the expected shape raises BundleFormatError.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import operator
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any, Final, NoReturn, TypeVar

from hydraopt.errors import BundleFormatError, explain
from hydraopt.files import shown, strict_json

T = TypeVar("T")

MAX_TEXT: Final = 4096
_INFINITE: Final = (1 << 1024) - (1 << 970)
"""Least whole number that rounds to no finite double."""
_EXACT: Final = 255
_STEPS: Final = 16
_GRID: Final[tuple[float, ...]] = (*(2.0 ** (-code / _STEPS) for code in range(_EXACT)), 0.0)
_ON_GRID: Final = frozenset(_GRID)


def dumps(value: Any) -> str:
    """Encode as canonical JSON: sorted keys, no spaces, UTF-8 as it is.

    Raises BundleFormatError for NaN, infinity, and what JSON cannot hold.
    """
    try:
        return json.dumps(
            value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
    except (TypeError, ValueError, RecursionError) as error:
        bad(f"a value cannot be written as JSON: {error}")


def in_order(value: Any) -> Any:
    """Return the value with the keys of every object sorted, as :func:`dumps` writes them."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    return [in_order(x) for x in value] if isinstance(value, list) else value


def loads(data: bytes) -> Any:
    """Parse a JSON text; refuse repeated keys, NaN and infinity."""
    try:
        return strict_json(data)
    except ValueError as error:
        bad(f"not valid JSON: {error}")


# --- tables -----------------------------------------------------------------------------------


def pack_columns(
    rows: Sequence[Mapping[str, Any]], lead: str, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Convert rows of equal keys to columns.

    The column ``lead`` is a list. Another column is left out where all values are its default,
    ``{"=": value}`` where all are equal, and a list otherwise.
    """
    columns: dict[str, Any] = {lead: [row[lead] for row in rows]}
    for name, default in defaults.items():
        values = [row[name] for row in rows]
        first = dumps(values[0]) if values else dumps(default)
        # The same object is the same text: long columns are mostly one value.
        if any(value is not values[0] and dumps(value) != first for value in values):
            columns[name] = values
        elif first != dumps(default):
            columns[name] = {"=": values[0]}
    return columns


def unpack_columns(
    columns: Any, lead: str, defaults: Mapping[str, Any], what: str, most: int
) -> list[dict[str, Any]]:
    """Convert :func:`pack_columns` back to at most ``most`` rows, with known columns only."""
    check(isinstance(columns, dict), f"{what} are not a table", columns, "an object of columns")
    unknown = unknown_names(columns, {lead, *defaults})
    check(not unknown, f"{what} have unknown columns", unknown, sorted({lead, *defaults}))
    leading = columns.get(lead)
    check(isinstance(leading, list), f"{what} lack the column {lead!r}", leading, "a list")
    check(len(leading) <= most, f"too many {what}", len(leading), f"at most {most}")
    rows: list[dict[str, Any]] = [{lead: value} for value in leading]
    for name, default in defaults.items():
        column = columns.get(name, {"=": default})
        if isinstance(column, dict):
            check(column.keys() == {"="}, f"column {name!r} of {what}", column, '{"=": value}')
            column = [column["="]] * len(rows)
        right = isinstance(column, list) and len(column) == len(rows)
        check(right, f"column {name!r} of {what} does not fit", column, f"{len(rows)} values")
        for row, value in zip(rows, column, strict=True):
            row[name] = value
    return rows


def pack_fields(entry: Any) -> list[Any] | None:
    """Return the values of a dataclass's fields as a list; None stays None."""
    return None if entry is None else [getattr(entry, x.name) for x in fields(entry)]


def unpack_fields(kind: Callable[..., T], value: Any, what: str) -> T | None:
    """Convert :func:`pack_fields` back to a dataclass, which checks the values itself."""
    if value is None:
        return None
    names = [x.name for x in fields(kind)]  # type: ignore[arg-type]
    right = isinstance(value, list) and len(value) == len(names)
    check(right, what, value, f"[{', '.join(names)}]")
    return kind(*value)


def pack_ranges(indices: Sequence[int], count: int) -> str | list[int]:
    """Encode rising indices below ``count``: "all", or [start, stop, start, stop, ...]."""
    if len(indices) == count:
        return "all"
    flat: list[int] = []
    for index in indices:
        if flat and flat[-1] == index:
            flat[-1] += 1
        else:
            flat += [index, index + 1]
    return flat


def unpack_ranges(value: Any, count: int) -> tuple[int, ...]:
    """Decode :func:`pack_ranges`; ranges must rise and be apart, so a set has one spelling."""
    if value == "all":
        return tuple(range(count))
    check(isinstance(value, list) and len(value) % 2 == 0, "ranges", value, '"all" or pairs')
    check(all(type(x) is int for x in value), "ranges", value, "whole numbers")
    apart = all(a < b for a, b in pairwise(value))
    check(apart, "ranges do not rise", value, "start < stop < next start")
    check(not value or (value[0] >= 0 and value[-1] <= count), "ranges", value, f"0 to {count}")
    return tuple(i for a, b in zip(value[::2], value[1::2], strict=True) for i in range(a, b))


# --- errors -----------------------------------------------------------------------------------


def code_of(error: float) -> int:
    """Return a relative error's grid code, round(-16 log2 error) in [0, 254]; 255 is exactly 0.

    A step is 4.4 %; errors of 1 and more become 1, those below 2^(-254/16) = 1.7e-5 become that.
    """
    if error == 0:
        return _EXACT
    return min(max(round(-_STEPS * math.log2(error)), 0), _EXACT - 1)


def error_of(code: int) -> float:
    """Return the relative error that a code stands for."""
    return _GRID[code]


def snapped(errors: tuple[Any, ...], what: str) -> tuple[float, ...]:
    """Return the grid values written for relative errors; raise BundleFormatError for others."""
    # Most were read, and are on the grid: no loop of ours over tasks times modules.
    if set(map(type, errors)) <= {float} and _ON_GRID.issuperset(errors):
        return errors
    for error in errors:
        amount(error, what)
    return tuple(error_of(code_of(error)) for error in errors)


def pack_errors(errors: Iterable[float]) -> str:
    """Encode errors as base64 of one code byte each."""
    return base64.b64encode(bytes(map(code_of, errors))).decode().rstrip("=")


def unpack_errors(text: Any) -> tuple[float, ...]:
    """Decode the output of :func:`pack_errors`."""
    check(isinstance(text, str), "errors", text, "base64 text")
    try:
        codes = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        bad(f"errors are not base64: {error}", text)
    return tuple(map(error_of, codes))


# --- configs ----------------------------------------------------------------------------------


def config_difference(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of ``other`` that differ from ``first``, and settings that it lacks."""
    changed = {k: v for k, v in other.items() if k not in first or dumps(v) != dumps(first[k])}
    missing = sorted(set(first) - set(other))
    return {**({"set": changed} if changed else {}), **({"drop": missing} if missing else {})}


def config_from_difference(first: Mapping[str, Any], difference: Any) -> dict[str, Any]:
    """Rebuild a config from the output of :func:`config_difference`."""
    shape = '{"set": {...}, "drop": [...]}'
    check(isinstance(difference, dict), "config", difference, shape)
    check(difference.keys() <= {"set", "drop"}, "config", difference, shape)
    changed, missing = difference.get("set", {}), difference.get("drop", [])
    right = isinstance(changed, dict) and isinstance(missing, list)
    check(right and all(isinstance(x, str) for x in missing), "config", difference, shape)
    check(set(missing) <= set(first), "config drops settings that are not there", missing)
    gone = set(missing)
    return {**{k: v for k, v in first.items() if k not in gone}, **changed}


# --- checks -----------------------------------------------------------------------------------


def bad(what: str, got: object = None, expected: object = None) -> NoReturn:
    """Raise BundleFormatError about the manifest; long values are cut."""
    shown = None if got is None else repr(got)[:80]
    raise BundleFormatError(explain(f"manifest: {what}", got=shown, expected=expected))


def check(fine: object, what: str, got: object = None, expected: object = None) -> None:
    """Raise BundleFormatError unless ``fine``."""
    if not fine:
        bad(what, got, expected)


def unknown_names(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the names that a reader must refuse: not known, and not optional.

    Names that begin with ``_`` are optional: a later minor version of the format may add them.
    """
    return sorted(name for name in set(names).difference(known) if not name.startswith("_"))


def check_keys(value: Any, known: Iterable[str], what: str = "the manifest") -> None:
    """Check for an object without unknown keys."""
    check(isinstance(value, dict), f"{what} is not an object", value)
    unknown = unknown_names(value, known)
    check(not unknown, f"unknown keys of {what}", unknown, f"only {', '.join(sorted(known))}")


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Convert a JSON list to a tuple."""
    check(isinstance(value, list), "a value is not a list", value)
    return tuple(value)


def text(value: Any, what: str, empty: bool = False) -> None:
    """Check for a text of reasonable length; printable and not empty, unless ``empty``."""
    fine = isinstance(value, str) and (empty or value) and len(value) <= MAX_TEXT
    check(fine, what, value, f"text of at most {MAX_TEXT} characters")
    # Control characters hide in terminals; a lone surrogate cannot be written as UTF-8.
    check(empty or shown(value), what, value, "text without hidden characters")


def natural(value: Any, what: str, low: int, high: int) -> None:
    """Check for a whole number in [low, high]."""
    # bool is an int in Python but not in JSON.
    check(type(value) is int and low <= value <= high, what, value, f"{low} to {high}")


def amount(value: Any, what: str) -> None:
    """Check for a number >= 0 that a double can hold; JSON may write it as a whole number."""
    is_number = isinstance(value, float | int) and type(value) is not bool
    fine = is_number and 0 <= value < (_INFINITE if isinstance(value, int) else math.inf)
    check(fine, what, value, "a finite number >= 0")


def one_of(value: Any, known: Any, what: str) -> None:
    """Check for one of the known texts."""
    check(isinstance(value, str) and value in known, what, value, ", ".join(known))


def digest(value: Any, what: str) -> None:
    """Check for the first 16 hex digits of a sha256, in lower case."""
    right = isinstance(value, str) and len(value) == 16 and not set(value) - set("0123456789abcdef")
    check(right, what, value, "16 hex digits")


def rising(values: tuple[Any, ...], what: str) -> None:
    """Check for whole numbers >= 0, each greater than the one before."""
    # No loop of ours: a collection has as many of these as it has tasks times modules.
    whole = set(map(type, values)) <= {int} and min(values, default=0) >= 0
    check(whole, what, values, "whole numbers")
    check(all(map(operator.lt, values, values[1:])), f"{what} do not rise", values)


def text_map(value: Any, what: str, kinds: type | tuple[type, ...]) -> None:
    """Check for a map from text to values of the given types."""
    right = isinstance(value, Mapping) and all(isinstance(x, str) for x in value)
    check(right and all(isinstance(x, kinds) for x in value.values()), what, value)


def unique(values: list[str], what: str) -> None:
    """Check that no text occurs twice."""
    seen: set[str] = set()
    for value in values:
        check(value not in seen, f"{what} occur twice", value)
        seen.add(value)


BUNDLE_SUFFIX: Final = ".hydra.safetensors"
FORMAT: Final = "hydraopt"
CORE: Final = "hydraopt-core"
TASK: Final = "hydraopt-task"
INDEX: Final = "hydraopt-index"
"""Values of ``format`` in the header of a bundle, a core file, a task file and an index."""

MOST_CONTENT: Final = (1 << 32) - 1
"""Maximum bytes of content whose size fits 32 bits."""
_LEVEL: Final = 9
_SIZE_BYTES: Final = 4


def deflate(data: bytes | memoryview, level: int = _LEVEL) -> bytes:
    """Compress to the size in 32 bits and one zlib stream; the same zlib gives the same bytes.

    Raises BundleFormatError for content whose size does not fit 32 bits.
    """
    if len(data) > MOST_CONTENT:
        raise BundleFormatError(
            explain(
                "a tensor is too large to be kept",
                got=f"{len(data)} bytes",
                expected=f"at most {MOST_CONTENT}",
                do="Leave the adapter out",
            )
        )
    return len(data).to_bytes(_SIZE_BYTES, "little") + zlib.compress(data, level)


def inflate(data: bytes, size: int | None, most: int, what: str) -> bytes:
    """Decompress the output of :func:`deflate`; check the stated size before allocating anything.

    size: the size it must have, or None if only the data says.
    most: the largest size allowed.

    Raises BundleFormatError.
    """
    if len(data) < _SIZE_BYTES:
        refuse(what, f"{len(data)} bytes", "its size and one zlib stream")
    stated = int.from_bytes(data[:_SIZE_BYTES], "little")
    if stated > most or (size is not None and stated != size):
        expected = f"at most {most} bytes" if size is None else f"{size} bytes"
        refuse(what, f"{stated} bytes, as it says", expected)
    stream = zlib.decompressobj()
    try:
        # One byte more than stated, so that more is seen, and the checksum is read in any case.
        content = stream.decompress(memoryview(data)[_SIZE_BYTES:], stated + 1)
    except zlib.error as error:
        refuse(what, str(error), "one zlib stream")
    if len(content) != stated:
        got = "more" if len(content) > stated else f"{len(content)}"
        refuse(what, f"{got} bytes", f"{stated} bytes")
    if not stream.eof or stream.unused_data:
        got = "bytes after it" if stream.eof else "a part of it"
        refuse(what, got, "one whole zlib stream")
    return content


def refuse(what: str, got: str, expected: str) -> NoReturn:
    """Raise BundleFormatError about packed bytes."""
    do = "The bundle is damaged; fetch it again or restore a copy"
    raise BundleFormatError(
        explain(f"{what} cannot be unpacked", got=got, expected=expected, do=do)
    )


def tensor_names(streams: int, blobs: int) -> list[str]:
    """Return the names of a bundle's tensors, in file order."""
    tasks = [f"task/{i}" for i in range(streams)]
    return ["manifest", "shared", *tasks, *(f"carried/{i}" for i in range(blobs))]


def header_of(
    tensors: Iterable[tuple[str, str, Sequence[int], int]], metadata: Mapping[str, str]
) -> bytes:
    """Return the head of a safetensors file: length and JSON header of (name, dtype, shape, bytes).

    The header is not padded: U8 data needs no alignment, and a bundle has no other.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, dtype, shape, size in tensors:
        offsets = [position, position + size]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        position += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text
