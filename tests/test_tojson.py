"""Dataclasses as JSON values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from hydraopt.tojson import absent_if_none, to_json


@dataclass(frozen=True)
class _Part:
    sizes: tuple[int, ...]
    error: float | None = None
    note: str | None = absent_if_none()


@dataclass(frozen=True)
class _Whole:
    SCHEMA: ClassVar[str] = "some/1"
    path: Path
    parts: MappingProxyType[str, _Part]


def test_dataclasses_become_dicts_by_field() -> None:
    whole = _Whole(Path("a"), MappingProxyType({"x": _Part((1, 2)), "y": _Part((), 0.5, "z")}))
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
