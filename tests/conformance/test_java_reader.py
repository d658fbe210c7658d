"""A reader in Java that was written from the specification alone gives the expected results."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from conformance.run import FOLDER, differences, expected_results, path_of, results_of

TABLES = FOLDER.parent / "docs" / "reference" / "tables.h"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK")
def test_it_gives_the_expected_results(tmp_path: Path) -> None:
    cases = expected_results()
    sources = sorted((FOLDER / "java").iterdir())
    subprocess.run(["javac", "-d", tmp_path, *sources], check=True)
    command = ["java", "-cp", str(tmp_path), "reader.Reader", str(TABLES)]
    for case, got in zip(cases, results_of(command, [*map(path_of, cases)]), strict=True):
        assert differences(case, got, adapters=False) == [], case["case"]
