"""The C library gives the results of conformance/, and those of hydraopt for forged bundles."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from conformance.run import differences, expected_results, path_of, results_of
from tests.bundle.forged import forgeries
from tests.conformance import judging


def test_the_results_of_conformance(conformance: str) -> None:
    cases = expected_results()
    for case, got in zip(cases, results_of([conformance], [*map(path_of, cases)]), strict=True):
        assert differences(case, got) == [], case["case"]
        assert all("adapter" in parts for parts in got["tasks"].values()), case["case"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forged") / "x.hydra.safetensors"


@pytest.mark.slow
@given(forgeries())
def test_forgeries_are_judged_alike(conformance: str, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    (theirs,) = results_of([conformance], [path])
    assert judging.differences(path, judging.of_python(path), theirs) == []
