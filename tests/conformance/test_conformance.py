"""hydraopt gives the verdicts that all readers must give; tests/native checks the C library."""

from __future__ import annotations

import json

import pytest

from tests.conformance.judging import of_python
from tests.conformance.make import CASES, LIST, SUFFIX, cases

LISTED = json.loads(LIST.read_text())


def test_the_files_are_those_of_the_script() -> None:
    assert {path.name.removesuffix(SUFFIX) for path in CASES.iterdir()} == set(LISTED)
    made = {name: (data, found) for name, data, found in cases()}
    assert {name: found for name, (_, found) in made.items()} == LISTED
    # zlib's output may differ from version to version, so files that do are judged as well.
    assert len(made) > 140


@pytest.mark.parametrize("name", LISTED)
def test_the_verdict_of_python(name: str) -> None:
    found = of_python(CASES / f"{name}{SUFFIX}")
    assert found.whole == LISTED[name]["verify"]
    expected = ["unsupported" if x == "range" else x for x in LISTED[name]["extract"]]
    assert list(found.tasks) == expected
