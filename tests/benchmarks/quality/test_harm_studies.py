"""Plans and studies of merges that measure harm: which prompts, what is merged, what is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from scipy.stats import binom

from benchmarks.quality import evidence, harm_kept
from benchmarks.quality.evidence import methods_of
from benchmarks.quality.harness import judging, looking
from benchmarks.quality.harness.bundlescores import score
from benchmarks.quality.harness.judging import judge_of, prompts_of
from benchmarks.quality.sets import ALONE, DEFAULT, PLANS, Method
from hydraopt import merge
from hydraopt.basemodel.encoding import encode_row
from hydraopt.bundle.harm import Harm
from hydraopt.evaluate.compare import EvaluationRequest
from hydraopt.evaluate.taskfile import read_task_file
from hydraopt.files.reading import file_hash
from tests.harm.measuring import measured

PATH = "model.layers.0.self_attn.q_proj"


# --- plans ----------------------------------------------------------------------------------------


def test_every_limit_is_what_merge_takes() -> None:
    assert Method("x", "5%").limit == {"size": "5%"}
    assert Method("x", "harm 1%").limit == {"harm": "1%"}
    assert Method("x", DEFAULT).limit == {}
    for methods in PLANS.values():
        labels = [method.label for method in methods]
        assert len(set(labels)) == len(labels)
        assert not any(" " in label for label in labels if label.startswith("hydraopt"))


def test_a_plan_of_harm_is_told_its_prompts_and_sizes() -> None:
    methods = methods_of("harm", [], "validation", 24)
    assert [x.size for x in methods] == ["5%", "3%", "2%"] * 2
    assert {x.name for x in methods} == {"hydraopt", ALONE}
    for method in methods:
        asked = method.options.get("judge")
        assert asked == ({"split": "validation", "count": 24} if method.name == ALONE else None)
        assert method.options.get("refit", False) == (method.name == ALONE)
    assert methods_of("harm", ["10%", "7%"], "train", 64)[-1] == Method(
        ALONE,
        "7%",
        {"judge": {"split": "train", "count": 64}, "sensitivity": "prompts", "refit": True},
    )
    assert methods_of("sizes", [], "train", 64) == PLANS["sizes"]


# --- prompts --------------------------------------------------------------------------------------


def test_prompts_are_laid_out_as_rows_are_scored_and_have_no_labels(
    trained, splits, adapters
) -> None:
    tokenizer = trained[1]
    scored = read_task_file(splits, "spell", "en")
    wanted = [encode_row(tokenizer, scored.instruction, r.input, r.output) for r in scored.rows]
    for split, count, rows in (("train", 3, wanted[:3]), ("validation", 64, wanted[5:])):
        asked = prompts_of(tokenizer, adapters, splits, split, count)["spell-en"]
        assert [item.prompt for item in asked] == [item.prompt for item in rows]
        assert {item.target for item in asked} == {()}
    with pytest.raises(ValueError, match="test"):
        prompts_of(tokenizer, adapters, splits, "test", 8)


def test_the_judge_measures_the_adapters(trained, splits, adapters, monkeypatch) -> None:
    monkeypatch.setattr(judging, "loaded_model", lambda _: trained)
    judge = judge_of("no folder", tuple(adapters), splits, "train", 6)
    assert judge is judge_of("no folder", tuple(adapters), splits, "train", 6)
    (adapter,) = adapters
    own = {path: module.factors() for path, module in adapter.modules.items()}
    same = measured(judge, "spell-en", own).harm
    assert (same.changed, same.answers, same.held_out) == (0, 6, True)
    other = {PATH: (9 * own[PATH][0], own[PATH][1])}
    assert measured(judge, "spell-en", other).harm.changed > 0


# --- counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changed", "answers"), [(0, 300), (3, 300), (17, 80), (40, 40)])
def test_intervals_are_those_of_a_binomial(changed: int, answers: int) -> None:
    """At either end so many changes or more, or fewer, have a chance of one in forty."""
    low, high = harm_kept.interval(changed, answers)
    assert low <= changed / answers <= high
    if changed:
        assert binom.sf(changed - 1, answers, low) == pytest.approx(0.025)
    if changed < answers:
        assert binom.cdf(changed, answers, high) == pytest.approx(0.025)


def test_a_limit_is_kept_up_to_its_share() -> None:
    assert harm_kept.kept(3, 300, 0.01)["kept"]
    over = harm_kept.kept(4, 300, 0.01)
    assert (over["kept"], over["broken_for_sure"]) == (False, False)
    far = harm_kept.kept(30, 300, 0.01)
    assert (far["kept"], far["broken_for_sure"], far["changed_pct"]) == (False, True, 10.0)


# --- whole runs on the small model ----------------------------------------------------------------


@pytest.fixture
def small(trained, splits, adapters, tmp_path: Path, monkeypatch):
    """A set of one adapter of the small model; what the merges were asked for."""
    model, tokenizer = trained
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    asked: list[dict[str, object]] = []

    def noted(adapters, path, **options):
        """As if sizes and limits of harm had been errors: so small a bundle is mostly header."""
        asked.append(options)
        error = {"1%": 0.1, "2%": 0.5}[options["harm"]] if "harm" in options else 0.3
        return merge(adapters, path, error=error, workers=1)

    def request(_set, tasks, rows, products):
        return EvaluationRequest(str(tmp_path / "base"), tasks, rows=rows, products=products)

    def judge(base, adapters, tasks, split, count, learned, answer_tokens):
        refit = lambda name, modules: {name: split}  # noqa: E731
        said = {
            "tokens": answer_tokens,
            "cut": lambda: {"en": (2, True)} if answer_tokens < 9 else {},
        }
        return SimpleNamespace(split=split, count=count, refit=refit, **said)

    monkeypatch.setattr(evidence, "merge", noted)
    monkeypatch.setattr(evidence, "judge_of", judge)
    monkeypatch.setattr(evidence, "request_for", request)
    monkeypatch.setattr(harm_kept, "request_for", request)
    monkeypatch.setattr(harm_kept, "original_adapters", lambda _: list(adapters))
    for module in (evidence, harm_kept):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return asked


def run(module, tmp_path: Path, tasks: Path, *more: str) -> dict:
    out = ["--out", str(tmp_path), "--products", "float32"]
    module.main(["gemma3-separate8", "--tasks", str(tasks), *out, *more])
    (path,) = tmp_path.glob("gemma3-separate8.*.json")
    return json.loads(path.read_text())


def test_tasks_that_are_not_scored_are_not_refitted() -> None:
    methods = evidence.methods_of("refit-alone", ["3%"], "train", 8, ["b", "a"])
    assert [method.options["refit"] for method in methods] == [["a", "b"]]


def test_methods_of_a_plan_can_be_left_out() -> None:
    some = evidence.methods_of("harm", ["3%"], "train", 8, named=[ALONE])
    assert [method.name for method in some] == [ALONE]
    with pytest.raises(SystemExit, match=ALONE):
        evidence.methods_of("sizes", [], "train", 8, named=[ALONE])


def test_a_refit_alone_is_told_of_training_rows() -> None:
    methods = evidence.methods_of("harm", ["3%"], "validation", 8, learned=300)
    asked = {x.name: x.options.get("judge") for x in methods}
    judged = {"split": "validation", "count": 8}
    assert asked == {
        "hydraopt": None,
        ALONE: {**judged, "learned": 300},
    }


@pytest.mark.parametrize(
    ("split", "count", "first"), [("validation", 5, 0), ("train", 3, 3), ("train", 8, 8)]
)
def test_training_rows_that_judge_are_not_learned_from(
    trained, splits, adapters, monkeypatch, split: str, count: int, first: int
) -> None:
    monkeypatch.setattr(judging, "loaded_model", lambda _: trained)
    judge = judge_of.__wrapped__("no folder", tuple(adapters), splits, split, count, 4)
    asked = prompts_of(trained[1], adapters, splits, "train", 8)["spell-en"]
    lessons = [x.prompt for x in judge.lessons("spell-en")]
    assert lessons == [x.prompt for x in asked[first : first + 4]]


def test_harm_kept_counts_the_changed_answers(small, splits, tmp_path, monkeypatch, capsys) -> None:
    opened = harm_kept.open_bundle

    def stated(path):
        """As if the first bundle said what was measured."""
        tasks = opened(path).manifest.tasks
        if "harm-1pct" in path.name:
            tasks = [replace(task, harm=Harm(1, 64, 0.0123, 0.5, True)) for task in tasks]
        return SimpleNamespace(manifest=SimpleNamespace(tasks=tasks))

    monkeypatch.setattr(harm_kept, "open_bundle", stated)
    result = run(harm_kept, tmp_path, splits, "--prompts-from", "validation", "--prompts", "5")
    assert [options["harm"] for options in small] == ["1%", "2%"]
    assert {(x["look"].judge.split, x["look"].judge.count) for x in small} == {("validation", 5)}
    assert all(x["look"].sensitivity for x in small), "as merge --harm looks at modules, too"
    assert (result["prompts_from"], result["prompts"]) == ("validation", 5)
    one, two = result["rows"]
    assert one["bytes"] > two["bytes"]
    for row in (one, two):
        task = row["by_task"]["spell-en"]
        share = task["changed"] / 10
        assert (task["answers"], task["changed_pct"]) == (10, pytest.approx(100 * share))
        assert task["kept"] == (share <= float(row["limit"].rstrip("%")) / 100)
        assert row["tasks_kept"] == task["kept"]
    assert one["by_task"]["spell-en"]["promised"] == {
        "changed": 1,
        "answers": 64,
        "likely_pct": 1.23,
        "kl_answer": 0.5,
        "held_out": True,
    }
    assert two["by_task"]["spell-en"]["promised"] is None
    assert "harm 2%: " in capsys.readouterr().out


def test_harm_kept_does_not_overwrite_a_result_of_others(small, splits, tmp_path, capsys) -> None:
    result = run(harm_kept, tmp_path, splits, "--limits", "1%")
    (out,) = tmp_path.glob("**/*.harm-kept.json")
    out.write_text(json.dumps({**result, "adapters": {"one": "", "two": ""}}))
    made = len(small)
    with pytest.raises(SystemExit, match=r"\b2\b.*\b1\b.*--out"):
        run(harm_kept, tmp_path, splits, "--limits", "1%")
    assert len(small) == made
    before = out.read_text()
    run(harm_kept, tmp_path, splits, "--limits", "1%", "--name", "apart")
    assert out.read_text() == before
    apart = out.with_name(out.name.replace(".harm-kept", "-apart.harm-kept"))
    assert json.loads(apart.read_text())["rows"] == result["rows"]
    capsys.readouterr()


@pytest.mark.parametrize(
    "other", [("--limits", "2%"), ("--prompts", "5"), ("--prompts-from", "validation")]
)
def test_harm_kept_does_not_overwrite_other_limits(
    small, splits, tmp_path, capsys, other: tuple[str, ...]
) -> None:
    run(harm_kept, tmp_path, splits, "--limits", "1%")
    made = len(small)
    with pytest.raises(SystemExit, match="limits"):
        run(harm_kept, tmp_path, splits, "--limits", "1%", *other)
    assert len(small) == made
    capsys.readouterr()


def test_harm_kept_says_how_much_of_answers_was_judged(small, splits, tmp_path, capsys) -> None:
    asked = ("--limits", "1%", "--answer-tokens")
    result = run(harm_kept, tmp_path, splits, *asked, "8")
    assert {x["look"].judge.tokens for x in small} == {8}
    assert result["answer_tokens"] == 8
    assert result["rows"][0]["cut"] == {"en": 2}
    capsys.readouterr()


def test_seven_of_a_thousand_keep_a_limit_of_seven_in_a_thousand() -> None:
    assert [harm_kept.kept(n, 1000, 0.007)["kept"] for n in (7, 8)] == [True, False]


def test_a_task_that_could_not_be_scored_is_named(small, splits, tmp_path, capsys) -> None:
    result = run(harm_kept, tmp_path, splits, "--limits", "1%")
    (row,) = result["rows"]
    scored = {"adapter": "spell-en", "rows": 10, "results": {"x": {"changed": 1, "kl_answer": 0.5}}}
    skipped = {"adapter": "odd", "results": {}, "skipped": "logits are not finite"}
    made = harm_kept.row_of("1%", row, [scored, skipped], "x", {})
    assert (made["skipped"], made["tasks"]) == ({"odd": "logits are not finite"}, 1)
    with pytest.raises(SystemExit, match="logits"):
        harm_kept.row_of("1%", row, [skipped], "x", {})
    capsys.readouterr()


def test_a_bundle_of_another_run_is_not_scored(small, splits, adapters, tmp_path) -> None:
    method = evidence.methods_of("harm", ["3%"], "train", 4)[1]
    path, said = evidence.merged("gemma3-5x8", adapters, method, splits)
    assert said["sha256"] == file_hash(path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(SystemExit, match="another"):
        score(tmp_path / "out.json", adapters, [(path, said)], None, {})


def test_what_is_seen_is_seen_on_the_prompts_that_judge(
    small, splits, adapters, trained, monkeypatch
) -> None:
    asked = []

    def seen_by(base, adapters, kind, tasks, folder, **rows):
        asked.append((kind, rows))
        return {"spell-en": {}}

    monkeypatch.setattr(evidence, "seen_by", seen_by)
    for method in evidence.methods_of("harm", ["3%"], "validation", 5):
        evidence.merged("gemma3-5x8", adapters, method, splits)
    assert asked == [("prompts", {"split": "validation", "count": 5})]
    texts = looking.texts_of("prompts", *trained, adapters[0], splits, 0, "validation", 5)
    wanted = prompts_of(trained[1], adapters, splits, "validation", 5)["spell-en"]
    assert [x.prompt for x in texts] == [x.prompt for x in wanted]


def test_prompts_are_others_if_they_are_asked_otherwise(splits, adapters) -> None:
    before = judging.prompts_hash(adapters, splits)
    (meta,) = splits.glob("*/META.json")
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "instruction": "Spell it."}))
    assert judging.prompts_hash(adapters, splits) != before
