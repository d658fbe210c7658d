"""merge --harm, plan and a folder of prompts, with a small model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import open_bundle
from hydraopt.errors import AlignmentError, BaseMismatchError, BudgetError, UsageError
from hydraopt.harm import answers
from hydraopt.merging.look import HarmSettings
from tests.basemodel.cases import PATHS
from tests.harm.cases import call, lines, run, spelling
from tests.marks import slow
from tests.raising import check_refused


def judge_first(monkeypatch, tokens: int) -> None:
    """Let a merge compare so many tokens of each answer, which Python alone can choose."""
    monkeypatch.setattr("hydraopt.merging.look.DEFAULT_HARM", HarmSettings(answer_tokens=tokens))


def started(place: Path, *how: str, name: str = "en") -> Path:
    """A bundle of the first adapter, made without the base."""
    out = place / "x.hydra.safetensors"
    made = run("merge", f"{name}={place / 'adapters' / 'en'}", *how, "-o", out)
    assert made.exit_code == 0, made.output
    return out


@pytest.fixture
def unloaded(monkeypatch) -> None:
    """Nothing that a test does loads the base."""
    monkeypatch.setattr(answers, "load_model", lambda *_: pytest.fail("the base was loaded"))


@pytest.mark.parametrize(
    ("how", "tokens"),
    [
        ("merge", 1),
        ("merge", 100),
        slow("plan", 1),
        ("add", 1),
        slow("plan", 100),
        slow("add", 100),
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


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--size", "5pc", "-o", "x"), "5pc"),
        (("--size", "5pc"), "5pc"),
        (("--error", "-2", "-o", "x"), "-2"),
        (("--harm", "5%", "--fair", "-o", "x"), "cannot be combined with weights or fair"),
        (("--harm", "5%", "--fair"), "cannot be combined with weights or fair"),
        (
            ("--harm", "5%", "--weight", "en=2", "-o", "x"),
            "cannot be combined with weights or fair",
        ),
        (("--size", "40%", "--weight", "er=2", "-o", "x"), "a task that was not found"),
    ],
)
def test_what_is_no_limit_is_told_before_the_base_is_loaded(place: Path, asked, said) -> None:
    (place / "base").rename(place / "elsewhere")
    made = call(place, *asked, verb="merge" if "-o" in asked else "plan")
    assert made.exit_code == 2
    error = made.stderr.partition("Error: ")[2]
    assert "base" not in error
    assert said in error


def test_a_full_folder_is_told_before_the_base_is_loaded(place: Path, unloaded) -> None:
    made = call(place, "--size", "40%", "-o", f"{place / 'prompts'}/")
    check_refused(made, UsageError, file="prompts")


def test_a_size_in_bytes_is_refused_before_anything_is_asked(place: Path, monkeypatch) -> None:
    monkeypatch.setattr("hydraopt.harm.answers.answered", lambda *_: pytest.fail("asked"))
    for verb, asked in (("merge", ["-o", place / "x"]), ("plan", [])):
        check_refused(call(place, "--size", "5", *asked, verb=verb), BudgetError, got="--exact")


@pytest.mark.slow
def test_what_is_usual_is_not_in_the_recipe(place: Path, monkeypatch) -> None:
    for tokens, said in ((128, None), (20, 20)):
        judge_first(monkeypatch, tokens)
        out = place / str(tokens)
        made = call(place, "--error", "0.3", "-o", out)
        assert made.exit_code == 0, made.output
        assert open_bundle(out).recipe.get("answer_tokens") == said


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

    monkeypatch.setattr("hydraopt.harm.judge.AnswerJudge", onlooker)
    assert "seen" in call(place, *options, "-o", place / "x").stderr
    assert told == [refits]


def test_what_keeps_every_bit_is_not_asked_for_answers(place: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        answers.Answers, "answers", lambda *_: pytest.fail("answers were asked for")
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


@pytest.mark.parametrize(
    ("how", "facts"),
    [
        (["--size", "40%", "--replace"], {"file": "x", "got": "'fr'", "expected": "en"}),
        ([], {"file": "x", "got": "prompts"}),
    ],
)
def test_what_a_collection_refuses_is_told_before_the_base_is_loaded(
    place: Path, unloaded, how: list[str], facts: dict[str, Any]
) -> None:
    out = started(place, "--lossless")
    check_refused(call(place, *how, verb="add", bundle=out, names=["fr"]), **facts)


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


def test_an_addition_gets_the_notes_of_a_merge(place: Path) -> None:
    out = started(place)
    result = call(place, "--harm", "5%", "--json", verb="add", bundle=out, names=["fr"])
    assert result.exit_code == 0, result.output
    notes = json.loads(result.stdout)["notes"]
    assert ("few_answers", "fr") in [(note["code"], note["where"]) for note in notes]


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        (["--harm", "20%", "--refit", "-o", "x"], {"names": "--refit"}),
        (["--size", "40%", "--harm", "1%", "-o", "x"], {"got": "size, harm"}),
        (["--harm", "nothing", "-o", "x"], {"got": "'nothing'"}),
        (["--harm", "5%", "--weight", "en=2", "-o", "x"], {}),
        (["--size", "40%", "--weight", "er=2", "-o", "x"], {"got": "er", "expected": "en, fr"}),
        (["--size", "4o%", "-o", "x"], {"got": "'4o%'"}),
        ([], {"names": "--size"}),
        (["--size", "40%", "--harm", "1%"], {"names": "--size"}),
        (["--size", "40%", "--error", "0.1"], {"names": "--error"}),
        (["--harm", "5%", "--fair"], {}),
        (["--harm", "5%", "--weight", "en=2"], {}),
        (["--size", "40%", "--weight", "er=2"], {"got": "er", "expected": "en, fr"}),
        (["--size", "40%", "--plot", "x.txt"], {"file": "x.txt"}),
        (["--size", "40%", "--plot", "none/x.png"], {"file": "x.png", "got": "no none/"}),
    ],
)
def test_what_does_not_fit_together_is_refused_at_once(
    place: Path, monkeypatch, more, facts
) -> None:
    looked = []
    monkeypatch.setattr("hydraopt.harm.judge.looks", lambda *given: looked.append(given))
    monkeypatch.setattr("hydraopt.harm.answers.answered", lambda *given: looked.append(given))
    refused = call(place, *more, verb="merge" if "-o" in more else "plan")
    check_refused(refused, **facts)
    assert not (place / "x").exists()
    assert not looked


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


def test_a_lossless_collection_has_no_use_for_prompts(place: Path) -> None:
    out = started(place, "--lossless")
    refused = call(place, verb="add", bundle=out, names=["fr"])
    check_refused(refused, UsageError, file="x.hydra.safetensors", got="prompts")
