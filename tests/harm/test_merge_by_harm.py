"""merge --harm, plan and a folder of prompts, with a small model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import open_bundle
from hydraopt.errors import AlignmentError, BaseMismatchError, UsageError
from hydraopt.merging import HarmSettings
from hydraopt.model import judge as judge_module
from tests.basemodel.cases import PATHS
from tests.harm.cases import call, lines, run, spelling
from tests.raising import check_refused


def judge_first(monkeypatch, tokens: int) -> None:
    """Let a merge compare so many tokens of each answer, which Python alone can choose."""
    for module in ("merging", "merging.options", "merging.limits"):
        setting = f"hydraopt.{module}.DEFAULT_HARM"
        monkeypatch.setattr(setting, HarmSettings(answer_tokens=tokens), raising=False)


def started(place: Path, *how: str, name: str = "en") -> Path:
    """A bundle of the first adapter, made without the base."""
    out = place / "x.hydra.safetensors"
    made = run("merge", f"{name}={place / 'adapters' / 'en'}", *how, "-o", out)
    assert made.exit_code == 0, made.output
    return out


@pytest.fixture
def unloaded(monkeypatch) -> None:
    """Nothing that a test does loads the base."""
    monkeypatch.setattr(judge_module, "load_model", lambda *_: pytest.fail("the base was loaded"))


@pytest.mark.parametrize(
    ("how", "tokens"),
    [
        ("merge", 1),
        ("merge", 100),
        ("add", 1),
    ],
)
def test_answers_that_go_on_are_told_of(place: Path, monkeypatch, tokens: int, how: str) -> None:
    """A limit that holds for their beginnings says so; what this model writes ends in time."""
    judge_first(monkeypatch, tokens)
    out = place / "x.hydra.safetensors"
    asked = ["--size", "60%", *([] if how == "plan" else ["--no-refit", "-o", out])]
    told = "en (11), fr (12)"
    if how == "add":  # measures as the merge did
        prompts = "--prompts", f"en={place / 'prompts' / 'en.jsonl'}"
        made = call(place, *prompts, *asked, names=["en"], asked=False)
        assert made.exit_code == 0, made.output
        assert open_bundle(out).recipe["answer_tokens"] == tokens
        made, told = call(place, verb="add", bundle=out, names=["fr"]), "fr (12)"
    else:
        made = call(place, *asked, verb=how)
    assert made.exit_code == 0, made.output
    assert (f"the first {tokens} tokens" in made.stderr) == (tokens == 1), made.stderr
    if tokens == 1:
        assert made.stderr.rstrip().endswith(told)


def test_a_limit_on_harm_is_kept_and_told(place: Path) -> None:
    out = place / "x.hydra.safetensors"
    made = call(place, "--harm", "20%", "--no-refit", "-o", out)
    assert made.exit_code == 0, made.output
    assert "answers that change" in made.stdout
    assert "en (12), fr (12)" in made.stderr
    with (place / "prompts" / "en.jsonl").open("a") as more:
        more.write(lines(*spelling(1)))
    made = call(place, "--size", "40%", verb="plan")
    assert "en (12), fr (12)" in made.stderr
    manifest = open_bundle(out).manifest
    limit = [manifest.recipe[key] for key in ("limit", "value", "unit")]
    assert limit == ["harm", 0.2, "share of answers"]
    for task in manifest.tasks:
        assert task.harm is not None
        assert task.harm.likely <= 0.2


def test_a_task_without_prompts_is_told(place: Path, monkeypatch) -> None:
    (place / "prompts" / "fr.jsonl").unlink()
    (place / "base").rename(place / "elsewhere")
    made = call(place, "--harm", "20%", "-o", place / "x")
    # Before anything is loaded.
    check_refused(made, UsageError, got="none of fr")
    (place / "elsewhere").rename(place / "base")
    made = call(place, "--size", "40%", "--no-refit", "-o", place / "x")
    assert made.exit_code == 0, made.output
    assert made.stderr.startswith("warning: ")
    assert " fr:" in made.stderr


@pytest.mark.parametrize(
    ("options", "refits"),
    [
        (("--size", "40%"), True),
        (("--error", "0.3"), False),
        (("--error", "0.3", "--refit"), True),
        (("--size", "40%", "--no-refit"), False),
        (("--harm", "20%"), False),
    ],
)
def test_only_before_a_refit_some_prompts_are_for_learning(
    place: Path, monkeypatch, options, refits: bool
) -> None:
    told = []

    def onlooker(*_, refits: bool, settings: HarmSettings):
        told.append(refits)
        raise UsageError("seen")

    monkeypatch.setattr("hydraopt.model.AnswerJudge", onlooker)
    assert "seen" in call(place, *options, "-o", place / "x").stderr
    assert told == [refits]


def test_what_keeps_every_bit_is_not_asked_for_answers(place: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        judge_module.AnswerJudge, "answers", lambda *_: pytest.fail("answers were asked for")
    )
    made = call(place, "--size", "1MB", "-o", place / "x", "--json")
    assert made.exit_code == 0, made.output
    assert "all_fits" in [note["code"] for note in json.loads(made.stdout)["notes"]]


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        (["--harm", "5"], {"got": "'5'"}),
        (["--size", "much"], {"got": "'much'"}),
        (["--harm", "5%", "--prompts", "en=PROMPTS/en.jsonl"], {"got": "none of fr"}),
        (["old=ADAPTERS/en"], {"file": "x.hydra.safetensors", "got": "old"}),
    ],
)
def test_an_addition_is_refused_before_the_base_is_loaded(
    place: Path, unloaded, more: list[str], facts: dict[str, Any]
) -> None:
    folders = {"ADAPTERS": f"{place / 'adapters'}", "PROMPTS": f"{place / 'prompts'}"}
    for name, folder in folders.items():
        more = [text.replace(name, folder) for text in more]
    given = {"bundle": started(place, name="old"), "asked": "--prompts" not in more}
    result = call(place, *more, verb="add", **given)
    check_refused(result, UsageError, **facts)


def test_what_does_not_fit_the_core_is_told_before_the_base_is_loaded(
    place: Path, make_adapter, unloaded
) -> None:
    out = started(place)
    pair = np.ones((32, 2)), np.ones((2, 32))
    made = (
        (BaseMismatchError, ({PATHS[0]: pair}, "org/other")),
        (AlignmentError, ({"model.layers.0.mlp.up_proj": pair}, "org/tiny")),
    )
    for number, (kind, (modules, base)) in enumerate(made):
        other = f"fr={make_adapter(place / 'others' / str(number), modules, base=base)}"
        check_refused(call(place, other, "--size", "40%", verb="add", bundle=out, names=[]), kind)
    result = call(place, "--size", "40%", "-o", place / "adapters" / "en" / "x", names=["en"])
    check_refused(result, UsageError, file="x")


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        (["--harm", "20%", "--refit", "-o", "x"], {"names": "--refit"}),
        (["--size", "40%", "--harm", "1%", "-o", "x"], {"got": "size, harm"}),
        (["--harm", "nothing", "-o", "x"], {"got": "'nothing'"}),
        (["--harm", "5%", "--fair", "-o", "x"], {}),
        (["--harm", "5%", "--weight", "en=2", "-o", "x"], {}),
        (["--size", "40%", "--weight", "er=2", "-o", "x"], {"got": "er", "expected": "en, fr"}),
        (["--size", "40%", "-o", "prompts/"], {"file": "prompts"}),
        (["--size", "5", "-o", "x"], {"got": "--exact"}),
        ([], {"names": "--size"}),
        (["--size", "5pc"], {"got": "5pc"}),
        (["--size", "40%", "--harm", "1%"], {"names": "--size"}),
        (["--size", "40%", "--error", "0.1"], {"names": "--error"}),
        (["--harm", "5%", "--weight", "en=2"], {}),
        (["--size", "40%", "--plot", "x.txt"], {"file": "x.txt"}),
        (["--size", "40%", "--plot", "none/x.png"], {"file": "x.png", "got": "no none/"}),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_asked(
    place: Path, monkeypatch, more, facts
) -> None:
    monkeypatch.chdir(place)
    for name in ("sensitivities", "answered"):
        monkeypatch.setattr(judge_module, name, lambda *_: pytest.fail("asked"))
    check_refused(call(place, *more, verb="merge" if "-o" in more else "plan"), **facts)
    assert not (place / "x").exists()


def test_prompts_of_the_merge_serve_what_is_added_to_it(place: Path) -> None:
    out = started(place, "--error", "0.2")
    given = {"bundle": out, "names": ["fr"]}
    added = call(place, "--size", "40%", verb="add", **given)
    assert added.exit_code == 0, added.output
    assert open_bundle(out)["fr"].entry.harm is not None
    told = call(place, "--json", verb="verify", **given)
    assert [task["name"] for task in json.loads(told.stdout)["harm"]] == ["fr"]
    refreshed = run("refresh", out, "--force", "--json")
    assert "harm_outdated" in [note["code"] for note in json.loads(refreshed.stdout)["notes"]]
    (place / "prompts" / "it.txt").write_text("x\n")
    warned = call(place, "--replace", "--size", "40%", verb="add", **given)
    assert warned.exit_code == 0, warned.output
    assert ": it" in warned.stderr
    next((place / "prompts").glob("fr.*")).unlink()
    refused = call(place, "--replace", "--size", "40%", verb="add", **given)
    check_refused(refused, UsageError, file="prompts", got="it", expected="fr")


# --- the command plan with prompts: what it shows, and that the m --------------------------------


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
