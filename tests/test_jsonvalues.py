"""Dataclasses as JSON values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import pytest

from hydraopt.files import from_json, to_json


@dataclass(frozen=True)
class _Part:
    sizes: tuple[int, ...]
    error: float | None
    note: str | None = None


@dataclass(frozen=True)
class _Whole:
    SCHEMA: ClassVar[str] = "some/1"
    path: Path
    parts: MappingProxyType[str, _Part]


def test_dataclasses_become_dicts_by_field() -> None:
    parts = {"x": _Part((1, 2), None), "y": _Part((), 0.5, "z")}
    whole = _Whole(Path("a"), MappingProxyType(parts))
    document = to_json(whole)
    assert list(document) == ["schema", "path", "parts"]
    assert json.loads(json.dumps(document)) == {
        "schema": "some/1",
        "path": "a",
        "parts": {
            "x": {"sizes": [1, 2], "error": None},
            "y": {"sizes": [], "error": 0.5, "note": "z"},
        },
    }


def test_other_values_stay() -> None:
    assert [to_json(x) for x in (None, 1.5, "x", True)] == [None, 1.5, "x", True]


@dataclass(frozen=True)
class _Read:
    SCHEMA: ClassVar[str] = "read/1"
    parts: Mapping[str, _Part | str]
    count: int = 0


READ = _Read({"x": _Part((1,), 2.0), "y": "none"})


def test_a_dataclass_is_read_back() -> None:
    assert from_json(_Read, json.loads(json.dumps(to_json(READ)))) == READ


@pytest.mark.parametrize(
    "other",
    [
        {"count": "1"},
        {"count": True},
        {"count": None},
        {"more": 1},
        {"schema": "read/2"},
        {"parts": []},
        {"parts": {"x": {"sizes": [1.5], "error": None}}},
        {"parts": {"x": {}}},
    ],
)
def test_other_values_are_no_dataclass(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"_Read|expected"):
        from_json(_Read, {**to_json(READ), **other})


def test_what_is_no_object_is_no_dataclass() -> None:
    with pytest.raises(ValueError, match="_Read"):
        from_json(_Read, None)
