"""The C library and hydraopt say the same of every bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.bundle.forged import forgeries
from tests.conformance.judging import differences, of_c, of_python
from tests.conformance.make import CASES, LIST, SUFFIX


def test_the_verdicts_of_the_list(verdicts: str) -> None:
    listed = json.loads(LIST.read_text())
    found = of_c(verdicts, [CASES / f"{name}{SUFFIX}" for name in listed])
    for (name, expected), theirs in zip(listed.items(), found, strict=True):
        wanted = {**expected, **expected.get("here", {}).get("c", {})}
        assert (theirs.whole, list(theirs.tasks)) == (wanted["verify"], wanted["extract"]), name


def test_what_is_written_is_the_same(verdicts: str) -> None:
    listed = json.loads(LIST.read_text())
    paths = [CASES / f"{name}{SUFFIX}" for name in listed if "here" not in listed[name]]
    for path, theirs in zip(paths, of_c(verdicts, paths), strict=True):
        assert differences(path, of_python(path), theirs) == [], path.name


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forged") / "x.hydra.safetensors"


@settings(max_examples=60)
@given(forgeries())
def test_forgeries_are_judged_alike(verdicts: str, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert differences(path, of_python(path), of_c(verdicts, [path])[0]) == []
