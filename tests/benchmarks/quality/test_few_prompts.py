"""Refits from few prompts are measured beside merges without prompts, task by task."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality import few_prompts
from hydraopt.bundle.reader import Bundle
from hydraopt.harm.judge import AnswerJudge
from hydraopt.merging.look import HarmSettings


@pytest.fixture
def command(
    splits: Path, tmp_path: Path, as_small_set: Any, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Runs the command with the small model; returns its rows."""
    as_small_set(few_prompts)
    brief = HarmSettings(steps=4, judge_after=(4,), synthetic_prompts=24)
    monkeypatch.setattr(few_prompts, "AnswerJudge", partial(AnswerJudge, settings=brief))

    def run(*more: str) -> list[dict[str, Any]]:
        asked = ["small", "--tasks", str(splits), "--output", str(tmp_path), "--rows", "4"]
        few_prompts.main([*asked, "--size", "900", *more])
        rows: list[dict[str, Any]]
        rows = json.loads((tmp_path / "small.few-prompts.json").read_text())["rows"]
        return rows

    return run


def test_a_row_for_each_number_of_prompts(command, monkeypatch) -> None:
    none, few = command("--counts", "3")
    assert (none["prompts"], few["prompts"]) == (0, 3)
    for row in (none, few):
        assert len(row["values"]) == 4
        assert all(changed in (0, 1) and kl >= 0 for changed, kl in row["values"])
    # Three prompts are too few to refit and too few to write others from.
    assert not few["refitted"]
    assert few["synthetic"] == 0
    assert command("--counts", "9")[:2] == [none, few]
    more = command("--counts", "9")[2]
    assert more["prompts"] == 9
    assert 0 < more["synthetic"] <= 24 - 9
    assert len(more["values"]) == 4
    assert not more["refitted"]  # four steps help nothing here
    monkeypatch.setattr(few_prompts, "merged", lambda *_: pytest.fail("measured again"))
    assert [x["prompts"] for x in command("--counts", "3", "9")] == [0, 3, 9]


def test_a_bundle_says_whether_it_was_refitted(command, monkeypatch) -> None:
    monkeypatch.setattr(Bundle, "recipe", property(lambda self: {**self.core.recipe, "refit": 1}))
    assert command("--counts", "3")[1]["refitted"]


def test_other_rows_and_prompts_are_refused(command, splits) -> None:
    command("--counts", "3")
    with pytest.raises(SystemExit, match="other count"):
        command("--counts", "3", "--rows", "3")
    for split, words in (("validation", "other prompts"), ("test", "other rows")):
        file = splits / "spell" / "en" / f"{split}.jsonl"
        file.write_text(file.read_text().replace('"input": "', '"input": "0'))
        with pytest.raises(SystemExit, match=words):
            command("--counts", "3")
