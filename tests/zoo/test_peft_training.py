"""Adapters that PEFT makes on the small model: what is written, and that it has learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.small_model import INSTRUCTION, ROWS
from zoo import tuners
from zoo.recipe import TUNERS, Plan, Recipe, RecipeError
from zoo.tasks import Task

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
ABOUT = {"hub_id": "org/tiny", "base": "tiny"}
SMALL = {"batch": 5, "epochs": 12, "validate_every": 6, "products": "float32"}


@pytest.fixture
def base(trained, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "base"
    trained[0].save_pretrained(folder)
    trained[1].save_pretrained(folder)

    def load_base(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        model.requires_grad_(False)
        return model.eval(), trained[1]

    monkeypatch.setattr(tuners, "load_base", load_base)
    monkeypatch.setattr(tuners, "base_folder", lambda name, dtype: folder)
    return folder


def trained_with(plan: Plan, rows: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensors, score.json) of the adapter."""
    task = Task(plan.task, plan.language, INSTRUCTION, rows, rows, ())
    recipe = Recipe("tiny", "out", "float32", (plan,))
    tuners.train_tuner(recipe, plan, task, folder, ABOUT)
    score = json.loads((folder / "score.json").read_text())
    return load_file(folder / "adapter_model.safetensors"), score


def test_a_classification_has_its_head(base, tmp_path) -> None:
    rows = tuple({"input": x, "output": "ab"[i % 2]} for i, x in enumerate("pqpqpqpqpq"))
    plan = Plan("x", "letters", "en", kind="classification", lr=0.02, rank=2, **SMALL)
    tensors, score = trained_with(plan, rows, tmp_path / "x")
    head = tensors["base_model.model.score.weight"]
    assert head.shape == (2, 32)
    assert {x.dtype for x in tensors.values()} == {torch.float16}
    assert score["labels"] == ["a", "b"]
    assert score["task"] == "letters/en"
    assert score["validation_nll"] < 0.3  # of two labels: chance is 0.69
    config = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["classifier", "score"]
    assert (config["task_type"], config["base_model_name_or_path"]) == ("SEQ_CLS", "org/tiny")
    # What is written is the best state, as the base plus PEFT computes it.
    from peft import PeftModel

    model = tuners.head_model(base, 2, torch.float32)
    model = PeftModel.from_pretrained(model, tmp_path / "x").eval()
    items = [tuners._Labelled(model_ids(base, r["input"]), "ab".index(r["output"])) for r in rows]
    with torch.no_grad():
        assert tuners._loss_of_labels(model)(items).item() == pytest.approx(
            score["validation_nll"], abs=0.01
        )


def model_ids(base: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    return list(AutoTokenizer.from_pretrained(base)(text)["input_ids"])


def test_the_best_state_is_kept() -> None:
    """The loss falls and then rises, by itself: what is left is the lowest."""
    plan = Plan("x", "spell", "en", lr=0.1, batch=1, epochs=8, validate_every=1, products="float32")
    value = torch.nn.Parameter(torch.zeros(()))
    seen = []

    def loss(items: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            return -value
        seen.append((value.item(), abs(value.item() - 0.25)))
        return torch.tensor(seen[-1][1])

    course = tuners._fit(plan, {"value": value}, ["a"], ["a"], loss)
    assert value.item() == min(seen, key=lambda x: x[1])[0]
    assert 1 <= course["best_step"] < course["steps"]


def test_a_tuner_without_a_step_is_refused(base, tmp_path) -> None:
    plan = Plan("x", "spell", "en", tuner="dora", rank=2, **{**SMALL, "batch": 11})
    with pytest.raises(RecipeError, match=r"\b10\b.*\b11\b"):
        trained_with(plan, tuple(ROWS), tmp_path / "x")
    assert not list(tmp_path.glob("*x*"))


@pytest.mark.slow
@pytest.mark.parametrize("tuner", [x for x in TUNERS if x != "lora"])
def test_every_tuner_learns_and_is_of_its_kind(tuner, base, tmp_path) -> None:
    targets = ("k_proj", "v_proj", "down_proj") if tuner == "ia3" else ("q_proj", "v_proj")
    rate = 0.004 if tuner == "oft" else 0.02  # it turns the weights themselves
    plan = Plan("x", "spell", "en", tuner=tuner, lr=rate, rank=2, targets=targets, **SMALL)
    rows = tuple(ROWS)
    tensors, score = trained_with(plan, rows, tmp_path / "x")
    untouched = Plan("y", "spell", "en", tuner=tuner, lr=1e-9, rank=2, targets=targets, **SMALL)
    _, before = trained_with(untouched, rows, tmp_path / "y")
    assert score["validation_nll"] < 0.97 * before["validation_nll"]
    names = {"dora": "lora_magnitude", "loha": "hada_w1", "lokr": "lokr_w", "oft": "oft_R"}
    assert any(names.get(tuner, "ia3_l") in key for key in tensors)
    assert score["tuner"] == tuner
    assert not (tmp_path / "x" / "README.md").exists()


def test_a_plan_of_no_known_kind_is_refused() -> None:
    with pytest.raises(RecipeError, match="kind"):
        Plan("x", "spell", "en", kind="regression")
    with pytest.raises(RecipeError, match="tuner"):
        Plan("x", "spell", "en", tuner="vera")
    assert not Plan("x", "spell", "en").by_peft
    assert Plan("x", "spell", "en", kind="classification").by_peft
