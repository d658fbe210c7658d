"""JSON: dataclasses to values and back, files with a value a line, text nobody vouches for."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from hydraopt.errors import UsageError, explain
from hydraopt.files.reading import read_regular

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Return a dataclass as a dict by field name, and everything in it likewise.

    A field whose default is None is left out while it is None. A class attribute ``SCHEMA`` becomes
    the key ``schema``, before the fields. Mappings become dicts, tuples and lists become lists,
    paths become text. Other values stay as they are.
    """
    if is_dataclass(value) and not isinstance(value, type):
        result = {"schema": value.SCHEMA} if hasattr(value, "SCHEMA") else {}
        for one in fields(value):
            content = getattr(value, one.name)
            if content is not None or one.default is not None:
                result[one.name] = to_json(content)
        return result
    if isinstance(value, Mapping):
        return {key: to_json(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(content) for content in value]
    return str(value) if isinstance(value, os.PathLike) else value


def from_json(kind: type[T], value: Any) -> T:
    """Return what :func:`to_json` made ``value`` of: a dataclass of this type.

    Its fields may be numbers, texts, truth values, tuples, mappings from texts, dataclasses, and
    unions of these. Raises ValueError for other values, and for keys that are no field.
    """
    result: T = _read(kind, value)
    return result


_hints = functools.cache(typing.get_type_hints)


def _read(kind: Any, value: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _read_one_of(inner, value)
    if is_dataclass(kind) and isinstance(value, dict):
        return _read_fields(kind, value)
    if origin is tuple and isinstance(value, list) and inner[1:] == (...,):
        return tuple(_read(inner[0], x) for x in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: _read(inner[1], x) for key, x in value.items()}
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (int, str, bool, types.NoneType) and type(value) is kind:
        return value
    raise ValueError(f"expected {kind}, got {type(value).__name__}")


def _read_one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in kinds:
        try:
            return _read(kind, value)
        except ValueError as error:
            last = error
    raise last


def _read_fields(kind: Any, value: Mapping[str, Any]) -> Any:
    hints, given = _hints(kind), dict(value)
    if given.pop("schema", None) != getattr(kind, "SCHEMA", None):
        raise ValueError(f"another schema than that of {kind.__name__}")
    known = {one.name: one for one in fields(kind)}
    required = {
        name for name, one in known.items() if one.default is one.default_factory is MISSING
    }
    if not required <= given.keys() <= known.keys():
        raise ValueError(f"other keys than the fields of {kind.__name__}")
    return kind(**{name: _read(hints[name], x) for name, x in given.items()})


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


_DEEPEST: Final = 64
"""Levels of nesting; what writes a value again recurses by as many."""


_HIDDEN: Final = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000"
    "\ud800-\udfff\ufeff\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
"""Characters that show nothing, or change how others are shown. A list, since what is printable
depends on the version of Unicode; part of the format."""


def shown(text: str) -> bool:
    """Return whether a text has no controls, direction marks or spaces other than U+0020."""
    return _HIDDEN.search(text) is None


def strict_json(text: bytes, *, unique: bool = True) -> Any:
    """Return the value of a JSON text in UTF-8.

    unique: whether a key that occurs twice in an object is refused; else the last one counts.
    Raises ValueError for what is no JSON, NaN and infinity, also as a number that is too large for
    a float, lone surrogates, which no file can hold as text, and deep nesting.
    """
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_no_duplicates if unique else None,
            parse_constant=_no_constant,
        )
    except RecursionError as error:
        # A text may be nothing but ten thousand opening brackets.
        raise ValueError("nested too deeply") from error
    _check(value, _DEEPEST)
    return value


def _check(value: Any, levels: int) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= x <= "\udfff" for x in value):
            raise ValueError(f"a lone surrogate in {value[:40]!r}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number is too large")
    elif isinstance(value, dict | list):
        if not levels:
            raise ValueError("nested too deeply")
        for inner in value:
            _check(inner, levels - 1)
        if isinstance(value, dict):
            for inner in value.values():
                _check(inner, levels - 1)


def _no_duplicates(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        raise ValueError("a key occurs twice")
    return result


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
