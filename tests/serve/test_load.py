"""The load run of the benchmarks: what it tells apart, and that it can be trusted to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.speed import serve_load
from benchmarks.speed.serve_load import Offline, kind_of, slope
from tests.small_model import tiny_speaker


def test_kinds_of_answers() -> None:
    alone = {
        ("de", 0): Offline("eins", 2.0),
        ("en", 0): Offline("one", 0.001),
        ("fr", 0): Offline("one", 1.0),
        ("en", 1): Offline("two", 1.0),
    }
    for asked, text, kind in (
        (("de", 0), "eins", "right"),
        (("de", 0), "one", "wrong_task"),
        (("en", 0), "eins", "wrong_task"),  # even where it may be a tie
        (("fr", 0), "one", "right"),  # though another task says the same
        (("en", 0), "onf", "tie"),
        (("de", 0), "einz", "unexplained"),
        (("de", 0), "two", "unexplained"),  # the answer to another prompt
    ):
        assert kind_of(asked, text, alone) == kind


def test_the_slope_is_that_after_the_warm_up() -> None:
    warm = [(t, (500 + 10 * t) * 2**20) for t in range(10)]
    late = [(t, (600 + t / 30) * 2**20) for t in range(10, 100)]
    found = slope([*warm, *late], 10)
    assert found["slope_mib_per_minute"] == pytest.approx(2, abs=1e-3)
    assert found["samples"] == 90
    assert found["most_mib"] == pytest.approx(603.3)
    assert slope(warm, 10)["slope_mib_per_minute"] is None


@pytest.mark.slow
def test_a_short_run(bundle_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_speaker(4096)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    out = tmp_path / "load.json"
    where = ["--base", str(tmp_path / "base"), "--bundle", str(bundle_of("all"))]
    often = ["--seconds", "4", "--clients", "8", "--prompts", "2", "--tokens", "6"]
    monkeypatch.setattr(sys, "argv", ["serve_load.py", *where, *often, "--out", str(out)])
    serve_load.main()
    rows = {x["what"]: x for x in json.loads(out.read_text())["rows"]}
    answers = rows["answers"]
    assert answers["requests"] == answers["right"] + answers["tie"] > 0
    assert answers["wrong_task"] == answers["failed"] == answers["unexplained"] == 0
    assert rows["bad requests"]["odd"] == 0
    assert rows["exit"]["unclean"] == 0
    assert rows["exit"]["under_way"] <= 8
    assert rows["memory"]["samples"] > 2
