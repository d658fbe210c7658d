"""hydraopt gives the expected results for the files of conformance/."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.run import FOLDER, differences, expected_results, path_of, results_of
from tests.conformance.judging import of_python
from tests.conformance.make import CASES, expected

EXPECTED = {case["case"]: case for case in expected_results()}
GROUNDS = {f"R{i}" for i in range(1, 31)}


def test_every_case_has_its_result() -> None:
    assert {path.name for path in CASES.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_hydraopt_gives_the_expected_result(name: str) -> None:
    result = of_python(path_of(EXPECTED[name]))
    assert expected(name, EXPECTED[name], result) == EXPECTED[name]


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
