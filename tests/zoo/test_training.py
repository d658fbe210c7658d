"""Training on the small model: the loss, stopping, and going on after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.marks import slow
from tests.small_model import INSTRUCTION, ROWS
from zoo.batching import encode
from zoo.lora import attached, init_factors
from zoo.recipe import Plan, Recipe, RecipeError, parse_recipe
from zoo.tasks import Task, read_task
from zoo.train import fit, train_adapter

PLAN = Plan("x", "spell", "en", rank=2, batch=2, epochs=4, validate_every=5, lr=0.01, patience=99)


@pytest.fixture
def items(trained):
    return encode(trained[1], ROWS, INSTRUCTION)


def train(model, items, plan=PLAN, checkpoint=None, **more):
    factors = init_factors(model, ("q_proj", "v_proj"), plan.rank, "0")
    with attached(model, factors, plan.alpha / plan.rank):
        return fit(model, factors, plan, items, items[:4], checkpoint, **more)


@pytest.mark.slow
def test_training_goes_on_where_it_was_interrupted(trained, items, tmp_path, monkeypatch) -> None:
    whole = train(trained[0], items)
    assert whole.steps == 20
    checkpoint = tmp_path / "checkpoint.pt"

    class Stop(Exception):
        pass

    saves = []
    save = torch.save

    def stopped(state, file):
        if len(saves) == 2:
            raise Stop
        saves.append(file)
        save(state, file)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", stopped)
        with pytest.raises(Stop):
            train(trained[0], items, checkpoint=checkpoint)
    resumed = train(trained[0], items, checkpoint=checkpoint)
    # Of another plan nothing is taken over: it ends where it would have without a checkpoint.
    other = replace(PLAN, lr=0.02)
    anew = train(trained[0], items, other, checkpoint)
    assert anew.validation_nll == train(trained[0], items, other).validation_nll
    assert (resumed.steps, resumed.best_step) == (whole.steps, whole.best_step)
    assert resumed.validation_nll == pytest.approx(whole.validation_nll, rel=1e-6)
    for path, pair in whole.factors.items():
        for mine, theirs in zip(pair, resumed.factors[path], strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["rows", "base"])
def test_a_checkpoint_of_other_rows_or_another_base_is_not_gone_on_with(
    trained, items, tmp_path, capsys, other
) -> None:
    """It lies there as an interrupted run left it."""
    checkpoint, plan = tmp_path / "checkpoint.pt", replace(PLAN, solved_nll=-1.0)
    train(trained[0], items, plan, checkpoint, base="tiny float32")
    again = {"rows": items[::-1] if other == "rows" else items}
    base = "tiny bfloat16" if other == "base" else "tiny float32"
    capsys.readouterr()
    found = train(trained[0], again["rows"], plan, checkpoint, base=base)
    said = capsys.readouterr().out
    assert f"the checkpoint has another {other}: starting anew" in said
    assert "going on" not in said
    assert found.validation_nll == train(trained[0], again["rows"], plan).validation_nll


@pytest.mark.parametrize("change", [{"batch": 11}, slow({"epochs": 0})])
def test_training_without_a_step_is_refused(trained, items, tmp_path, change) -> None:
    plan = replace(PLAN, **change)
    facts = rf"\b10\b.*\b{plan.batch}\b.*\b{plan.epochs}\b"
    with pytest.raises(RecipeError, match=f"{facts}.*batch"):
        train(trained[0], items, plan, tmp_path / "checkpoint.pt")
    assert list(tmp_path.iterdir()) == []


def test_no_folder_is_left_of_what_was_not_trained(trained, tmp_path) -> None:
    rows = tuple(ROWS)
    task = Task("spell", "en", INSTRUCTION, rows[:1], rows, rows)
    recipe = Recipe("smollm2-135m-instruct", "out", "float32", (PLAN,))
    factors = init_factors(trained[0], PLAN.targets, PLAN.rank, "0")
    with attached(trained[0], factors), pytest.raises(RecipeError, match=r"\b1\b"):
        train_adapter(*trained, recipe, PLAN, task, tmp_path / "x", factors)
    assert list(tmp_path.iterdir()) == []


def test_training_stops_when_nothing_improves(trained, items) -> None:
    still = replace(PLAN, lr=0.0, patience=2)
    found = train(trained[0], items, still)
    assert (found.stopped, found.best_step, found.steps) == ("patience", 5, 15)


def test_a_misspelt_recipe_is_refused() -> None:
    recipe = {"base": "gemma-3-270m", "output": "x", "adapters": []}
    assert parse_recipe(recipe).dtype == "float32"
    with pytest.raises(RecipeError, match="dtype"):
        parse_recipe({**recipe, "dtype": "int8"})
    with pytest.raises(RecipeError, match="rnk"):
        parse_recipe({**recipe, "defaults": {"rnk": 8}})


def test_the_recipes_of_the_evidence_are_read() -> None:
    from benchmarks.quality.sets import recipe_of
    from zoo.recipe import read_recipe

    recipe = read_recipe(recipe_of("gemma3-5x8"))
    assert len(recipe.plans) == 40
    assert len({plan.task for plan in recipe.plans}) == 5
    assert json.loads(recipe_of("gemma3-5x8").read_text())["dtype"] == "bfloat16"


def test_rows_are_lines_whatever_stands_in_their_strings(tmp_path) -> None:
    row = {"input": "a\u2028b\x85c", "output": "d\u2029"}
    folder = tmp_path / "spell"
    (folder / "en").mkdir(parents=True)
    (folder / "META.json").write_text(json.dumps({"instruction": INSTRUCTION}))
    for split in ("train", "validation", "test"):
        text = json.dumps(row, ensure_ascii=False) + "\n"
        (folder / "en" / f"{split}.jsonl").write_text(text * 2, encoding="utf-8")
    task = read_task(folder, "en")
    assert list(task.train) == [row] * 2
