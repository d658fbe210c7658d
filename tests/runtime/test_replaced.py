"""Tasks that bring modules of their own: heads, output layers, embeddings, norms."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForSequenceClassification

from hydraopt import attach, merge, open_bundle
from hydraopt.errors import UsageError
from tests.conftest import write_adapter
from tests.raising import raises
from tests.runtime.conftest import Q, pairs
from tests.small_model import tiny_llama

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16], [17, 18, 19, 20]])
BOTH = [Q, Q.replace("0", "1")]
PREFIX = "base_model.model."
LM = {"lm_head.weight": (97, 32), "model.embed_tokens.weight": (97, 32), "model.norm.weight": (32,)}


def adapter(folder: Path, seed: int, saved: Mapping[str, tuple[int, ...]], **config: Any) -> Path:
    rng = np.random.default_rng(seed)
    extras = {
        PREFIX + key: rng.standard_normal(shape).astype(np.float32) for key, shape in saved.items()
    }
    names = sorted({key.rpartition(".")[0] for key in saved})
    return write_adapter(folder, _factors(seed), extras=extras, modules_to_save=names, **config)


@pytest.fixture
def classifier() -> Any:
    config = tiny_llama().config
    config.num_labels, config.pad_token_id = 3, 0
    torch.manual_seed(1)
    return LlamaForSequenceClassification(config).eval()


@pytest.fixture(params=[(), ("*score*",)], ids=["coded", "exact"])
def heads(tmp_path, request) -> Path:
    """Two tasks with a head each; "same" has the factors of "one", and if its head is kept bit by
    bit it shares the stream."""
    seeds = {"one": 1, "two": 2}
    paths = [
        adapter(tmp_path / name, seed, {"score.weight": (3, 32)}, task_type="SEQ_CLS")
        for name, seed in seeds.items()
    ]
    same = write_adapter(
        tmp_path / "same",
        _factors(1),
        extras={f"{PREFIX}score.weight": np.ones((3, 32), np.float32)},
        modules_to_save=["score"],
        task_type="SEQ_CLS",
    )
    plain = write_adapter(tmp_path / "plain", _factors(1))
    merge([*paths, same, plain], tmp_path / "b", error=0.1, workers=1, exact=request.param)
    return tmp_path / "b"


def _factors(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {x: (0.3 * rng.standard_normal((32, 2)), rng.standard_normal((2, 32))) for x in BOTH}


def by_peft(model: Any, bundle: Path, task: str, folder: Path) -> torch.Tensor:
    """Logits of the exported task, as PEFT itself computes them."""
    from peft import PeftModel

    open_bundle(bundle)[task].save_pretrained(folder / task, dtype="float32")
    with torch.no_grad():
        return PeftModel.from_pretrained(copy.deepcopy(model), folder / task)(IDS).logits


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
def test_each_task_has_its_own_head(classifier, heads, tmp_path) -> None:
    base = logits(classifier)
    with attach(classifier, heads) as attached:
        found = {}
        for name in ("one", "two", "same", None, "one", "plain"):
            attached.set_task(name)
            found[name] = logits(classifier)
    for name in ("one", "two", "same"):
        expected = by_peft(classifier, heads, name, tmp_path / "out")
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[None], base)
    assert (found["one"] - found["same"]).abs().max() > 0.1  # equal factors, another head
    assert (found["plain"] - found["same"]).abs().max() > 0.1
    assert torch.equal(logits(classifier), base)


def test_each_row_has_its_own_head(classifier, heads) -> None:
    rows = ["two", None, "same", "plain"]
    with attach(classifier, heads) as attached:
        alone = []
        for i, name in enumerate(rows):
            attached.set_task(name)
            alone.append(logits(classifier, IDS[i : i + 1])[0])
        attached.set_tasks(rows)
        together = logits(classifier)
        twice = logits(classifier, IDS.repeat_interleave(2, 0))
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(twice[::2], together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(twice[1::2], together, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
def test_output_layer_embedding_and_norm(tmp_path) -> None:
    model = tiny_llama()
    base = logits(model)
    own = adapter(tmp_path / "own", 3, LM)
    # Another task changes the output layer by factors: rows of both stand in one batch.
    rng = np.random.default_rng(4)
    change = (rng.standard_normal((97, 2)), rng.standard_normal((2, 32)))
    changes = write_adapter(tmp_path / "changes", {**_factors(5), "lm_head": change})
    merge([own, changes], tmp_path / "b", error=0.1, workers=1)
    with attach(model, tmp_path / "b") as attached:
        found = {}
        for name in ("own", "changes", None):
            attached.set_task(name)
            found[name] = logits(model)
        attached.set_tasks(["changes", "own", None, "own"])
        mixed = logits(model)
    expected = by_peft(model, tmp_path / "b", "own", tmp_path / "out")
    torch.testing.assert_close(found["own"], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[None], base)
    rows = [found["changes"][0], found["own"][1], base[2], found["own"][3]]
    torch.testing.assert_close(mixed, torch.stack(rows), rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model), base)


def test_a_bias_alone_leaves_the_weight(classifier, tmp_path) -> None:
    classifier.score = torch.nn.Linear(32, 3)
    weight = classifier.score.weight.detach().clone()
    merge([adapter(tmp_path / "x", 1, {"score.bias": (3,)})], tmp_path / "b", error=0.1, workers=1)
    bias = np.frombuffer(
        open_bundle(tmp_path / "b")["x"].extras[f"{PREFIX}score.bias"].raw(), np.float32
    )
    states = torch.randn(4, 32)
    with attach(classifier, tmp_path / "b") as attached, torch.no_grad():
        attached.set_task("x")
        found = classifier.score(states)
    torch.testing.assert_close(found, states @ weight.T + torch.tensor(bias))


def test_memory_counts_heads(classifier, heads) -> None:
    with attach(classifier, heads) as attached:
        attached.set_task("plain")
        plain = attached.memory().cached
        attached.set_task("same")
        assert attached.memory().cached == 2 * plain + 3 * 32 * 4


@pytest.mark.parametrize(
    ("saved", "config"),
    [
        (
            {"score.weight": (3, 32)},
            {"task_type": "SEQ_CLS"},
        ),
        ({"lm_head.weight": (96, 32)}, {}),
        ({"lm_head.bias": (97,)}, {}),
        ({f"{Q}.weight": (32, 32)}, {}),
        ({"model.layers.0.mlp.extra": (3,)}, {}),
    ],
)
def test_what_has_no_place_is_refused_by_name(saved, config, tmp_path) -> None:
    odd = adapter(tmp_path / "odd", 1, saved, **config)
    plain = write_adapter(tmp_path / "plain", pairs(1, 2))
    merge([odd, plain], tmp_path / "b", error=0.3, workers=1)
    model = tiny_llama(intermediate_size=64)
    with attach(model, tmp_path / "b") as attached:
        attached.set_task("plain")
        with raises(UsageError, file="b", expected="low-rank") as caught:
            attached.set_task("odd")
        assert next(iter(saved)) in str(caught.value)
        assert attached.active == ("plain",)


def test_an_embedding_as_the_difference_from_the_models_own(tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    plain = tiny_llama()
    plain.save_pretrained(tmp_path / "base")
    own = plain.get_input_embeddings().weight.detach().numpy()
    changed = own.copy()
    changed[5] += 1
    key = f"{PREFIX}model.embed_tokens.weight"
    one = write_adapter(
        tmp_path / "one", _factors(1), extras={key: changed}, modules_to_save=["embed_tokens"]
    )
    merge([one], tmp_path / "b", error=0.05, base=tmp_path / "base", workers=1)
    assert open_bundle(tmp_path / "b").manifest.tensors[0].base is not None
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    with attach(model, tmp_path / "b") as attached:
        attached.set_task("one")
        selected = model.get_input_embeddings()(torch.tensor([4, 5]))
    np.testing.assert_array_equal(selected[0].detach(), own[4])
    np.testing.assert_allclose(selected[1].detach(), changed[5], atol=0.3)
    # A model that is not from a folder has no tensors to add the difference to.
    with raises(UsageError, file="b"), attach(plain, tmp_path / "b") as attached:
        attached.set_task("one")
