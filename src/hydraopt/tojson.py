"""Convert dataclasses to the values that the json module writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from pathlib import PurePath
from typing import Any

__all__ = ["absent_if_none", "to_json"]

_ABSENT_IF_NONE = "absent_if_none"


def absent_if_none() -> Any:
    """Declare a dataclass field whose default is None, and which JSON lacks while it is None."""
    return field(default=None, metadata={_ABSENT_IF_NONE: True})


def to_json(value: Any) -> Any:
    """Return a dataclass as a dict by field name, and everything in it likewise.

    A class attribute ``SCHEMA`` of a dataclass becomes the key ``schema``, before its fields.
    Mappings become dicts, tuples and lists become lists, paths become text. Other values stay as
    they are.
    """
    if is_dataclass(value) and not isinstance(value, type):
        result = {"schema": value.SCHEMA} if hasattr(value, "SCHEMA") else {}
        for one in fields(value):
            content = getattr(value, one.name)
            if content is not None or _ABSENT_IF_NONE not in one.metadata:
                result[one.name] = to_json(content)
        return result
    if isinstance(value, Mapping):
        return {key: to_json(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(content) for content in value]
    return str(value) if isinstance(value, PurePath) else value
