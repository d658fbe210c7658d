"""The files of conformance/ are those of the script, and hydraopt gives the expected results."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from conformance.run import differences, expected_results, path_of, results_of
from tests.conformance.forging import Verdict
from tests.conformance.judging import of_python
from tests.conformance.make import CASES, FOLDER, cases, expected, write_case

EXPECTED = {case["case"]: case for case in expected_results()}
GROUNDS = {f"R{i}" for i in range(1, 31)}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Verdict]:
    """Write all cases again; return the verdict of each by its path."""
    folder = tmp_path_factory.mktemp("cases")
    return {write_case(case, folder): case[2] for case in cases()}


def test_the_files_are_those_of_the_script(verdicts: dict[Path, Verdict]) -> None:
    there = {path.name for path in CASES.iterdir()}
    assert {path.name for path in verdicts} == set(EXPECTED) == there
    if "ng" in zlib.ZLIB_RUNTIME_VERSION:
        pytest.skip("another zlib may deflate to other bytes")
    for made in verdicts:
        for path in sorted(made.iterdir()) if made.is_dir() else [made]:
            own = CASES / path.relative_to(made.parent)
            assert path.read_bytes() == own.read_bytes(), own


@pytest.mark.parametrize("name", EXPECTED)
def test_hydraopt_gives_the_expected_result(name: str, verdicts: dict[Path, Verdict]) -> None:
    (verdict,) = (verdict for path, verdict in verdicts.items() if path.name == name)
    result = of_python(path_of(EXPECTED[name]))
    assert expected(name, verdict, result) == EXPECTED[name]


def test_git_ignores_no_case() -> None:
    git = shutil.which("git")
    if git is None or not (FOLDER.parent / ".git").exists():
        pytest.skip("no checkout")
    paths = "\n".join(str(path) for path in sorted(CASES.rglob("*")))
    command = [git, "check-ignore", "--no-index", "--stdin"]
    found = subprocess.run(
        command, input=paths, cwd=FOLDER, check=False, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout) == (1, "")


def test_every_ground_of_the_specification_has_a_case() -> None:
    assert {case["ground"] for case in EXPECTED.values() if "ground" in case} == GROUNDS
    text = (FOLDER.parent / "docs" / "reference" / "format.md").read_text()
    listed = text.partition("## 8.")[2].partition("## 9.")[0]
    numbers = [line.partition(".")[0] for line in listed.splitlines()]
    assert {f"R{number}" for number in numbers if number.isdecimal()} == GROUNDS


def test_texts_of_a_result_may_hold_other_ends_of_lines() -> None:
    program = "print('[\"\\u2028\\x85\"]')"
    assert results_of([sys.executable, "-X", "utf8", "-c", program], [Path()]) == [["\u2028\x85"]]


def test_a_difference_is_reported() -> None:
    case: dict[str, Any] = EXPECTED["linear.hydra.safetensors"]
    (name,) = case["tasks"]
    parts = case["tasks"][name]
    for key in parts:
        assert differences(case, {**case, "tasks": {name: {**parts, key: "unsupported"}}})
    assert differences(case, {**case, "verify": "damaged"})
    assert differences(case, {**case, "tasks": {}})
    assert not differences(case, case)
    without = {**case, "tasks": {name: {x: y for x, y in parts.items() if x != "adapter"}}}
    assert differences(case, without)
    assert not differences(case, without, adapters=False)
