"""Convert dataclasses to the values that the json module writes, and back."""

from __future__ import annotations

import functools
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

__all__ = ["from_json", "to_json"]

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
