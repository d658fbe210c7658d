"""A limit on harm is checked on rows that the merge has not seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality import harm_kept
from benchmarks.quality.harm_kept import interval, kept


@pytest.fixture
def command(splits: Path, tmp_path: Path, as_small_set: Any) -> Any:
    """Runs the command with the small model; returns its result."""
    as_small_set(harm_kept)

    def run(*more: str) -> dict[str, Any]:
        asked = ["small", "--tasks", str(splits), "--output", str(tmp_path), "--prompts", "9"]
        harm_kept.main([*asked, *more])
        result: dict[str, Any] = json.loads((tmp_path / "small.harm-kept.json").read_text())
        return result

    return run


def test_a_row_for_each_task_and_limit(command) -> None:
    first = command("--rows", "6", "--limits", "60%")
    (loose,) = first["rows"]
    assert loose["adapter"] == "spell-en"
    assert loose["answers"] == 6
    assert 0 <= loose["changed"] <= 6
    again = command("--rows", "6", "--limits", "60%", "1%")
    assert again["rows"][0] == loose
    strict = again["rows"][1]
    assert strict["bytes"] > loose["bytes"]
    assert strict["changed"] == 0
    with pytest.raises(SystemExit, match="other count"):
        command("--rows", "5", "--limits", "60%")
    with pytest.raises(SystemExit, match="other asked"):
        command("--rows", "6", "--limits", "60%", "--prompts", "8")


def test_rows_of_other_task_files_are_refused(command, splits) -> None:
    command("--rows", "4", "--limits", "60%")
    (file,) = (splits / "spell" / "en").glob("test.jsonl")
    file.write_text(file.read_text().replace("two", "2"))
    with pytest.raises(SystemExit, match="other rows of spell-en"):
        command("--rows", "4", "--limits", "60%")


def test_what_is_there_is_not_measured_again(command, monkeypatch) -> None:
    one = command("--rows", "4", "--limits", "60%")
    monkeypatch.setattr(harm_kept, "counts", lambda *_: pytest.fail("measured again"))
    assert command("--rows", "4", "--limits", "60%") == one


def test_a_limit_is_a_share(command) -> None:
    with pytest.raises(SystemExit):
        command("--limits", "0.01")


def test_a_share_at_the_limit_keeps_it() -> None:
    assert kept(7, 1000, 0.007)["kept"]
    assert not kept(8, 1000, 0.007)["kept"]
    assert not kept(8, 1000, 0.007)["surely_broken"]
    assert kept(30, 1000, 0.007)["surely_broken"]
    low, high = interval(0, 100)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 100))
