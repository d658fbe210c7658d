"""The command plan with prompts: what it shows, and that the merge after it makes the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from hydraopt import open_bundle
from tests.harm.cases import call


@pytest.mark.slow
def test_the_plan_is_shown_drawn_and_writes_no_bundle(place: Path) -> None:
    picture = place / "plan.png"
    told = call(place, "--size", "40%", "--plot", picture, "--json", verb="plan")
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert report["schema"] == "hydraopt.plan/1"
    assert (report["limit"], report["counted"]) == ("size", "answers")
    assert report["refit"]
    for task in report["tasks"]:
        assert task["size"] > 0
        assert not task["trials"]
        assert 0 <= task["harm"]["changed"] <= task["harm"]["answers"]
    assert picture.stat().st_size > 10_000
    assert not list(place.glob("*.safetensors"))


@pytest.mark.slow
def test_a_fair_plan_gives_all_tasks_the_same_error(place: Path) -> None:
    def spread(*options: str) -> float:
        made = call(place, "--size", "45%", "--weight", "en=9", *options, "--json", verb="plan")
        assert made.exit_code == 0, made.output
        errors = [task["error"] for task in json.loads(made.stdout)["tasks"]]
        return max(errors) / min(errors)

    fair, weighted = spread("--fair"), spread()
    assert fair < 1.1 < weighted, (fair, weighted)


@pytest.mark.slow
def test_a_plan_says_whether_a_refit_follows(place: Path) -> None:
    for limit, told in ((("--size", "40%"), True), (("--harm", "20%"), False)):
        made = call(place, *limit, verb="plan")
        assert made.exit_code == 0, made.output
        assert ("before a refit" in made.stdout) == told, made.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "more"), [(("--size", "40%"), ("--no-refit",)), (("--harm", "20%"), ())]
)
def test_the_merge_after_a_plan_makes_what_was_planned(
    place: Path, own_cache: Path, limit: Sequence[str], more: Sequence[str]
) -> None:
    plan = json.loads(call(place, *limit, "--json", verb="plan").stdout)
    before = set((own_cache / "harm").iterdir())
    out = place / "x.hydra.safetensors"
    made = json.loads(call(place, *limit, *more, "-o", out, "--json").stdout)
    assert set((own_cache / "harm").iterdir()) == before
    assert plan["size"] == made["size"] == out.stat().st_size
    streams = [x for name, x in open_bundle(out).tensor_bytes.items() if name != "manifest"]
    assert sum(task["size"] for task in plan["tasks"]) == pytest.approx(sum(streams))
    for planned, task in zip(plan["tasks"], made["tasks"], strict=True):
        assert planned["harm"] == task["harm"]
        assert planned["error"] == task["error"]


@pytest.mark.slow
def test_a_plan_has_the_notes_of_the_merge(place: Path) -> None:
    limit = "--harm", "7%"
    notes = json.loads(call(place, *limit, "--json", verb="plan").stdout)["notes"]
    assert ("few_answers", "en, fr") in [(note["code"], note["where"]) for note in notes]
    told = " ".join(call(place, *limit, verb="plan").stdout.split())
    assert all(f"note: {note['text']}" in told for note in notes)
    made = json.loads(call(place, *limit, "-o", place / "x", "--json").stdout)
    assert made["notes"] == notes
