"""Base models as transformers saves them: complete ones are read, whatever their layers lack."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hydraopt.errors import AlignmentError
from hydraopt.export import export_merged
from hydraopt.export.merged import read_checkpoint
from tests.export.targets import bundled, save_base, small_task
from tests.export.test_export_merged import merged_by_peft, trained, weights, without
from tests.raising import raises
from tests.small_model import tiny_llama

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
TEXT = {**SMALL, "vocab_size": 50}
NO_TOKENS = {f"{x}_token_id": 0 for x in ("pad", "bos", "eos", "cls", "sep")}


def made(name: str, config: str, **settings: Any) -> Any:
    """A random model of transformers, by the names of its classes."""
    library = importlib.import_module("transformers")
    if not hasattr(library, name):
        pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(0)
    return getattr(library, name)(getattr(library, config)(**settings)).eval()


def neox(**settings: Any) -> Any:
    return made("GPTNeoXForCausalLM", "GPTNeoXConfig", num_hidden_layers=2, **TEXT, **settings)


def gemma() -> Any:
    return made(
        "Gemma4ForCausalLM", "Gemma4TextConfig", **TEXT, num_hidden_layers=6,
        layer_types=["sliding_attention", "full_attention"] * 3, num_key_value_heads=1, head_dim=8,
        global_head_dim=8, num_kv_shared_layers=2, vocab_size_per_layer_input=50,
        hidden_size_per_layer_input=4, pad_token_id=0,
    )  # fmt: skip


COMPLETE = {
    "ModernBERT, layer 0 without a norm": lambda: made(
        "ModernBertForMaskedLM", "ModernBertConfig", num_hidden_layers=4, **TEXT, **NO_TOKENS
    ),
    "Swin, last stage without downsampling": lambda: made(
        "SwinForImageClassification", "SwinConfig", image_size=32, patch_size=2, embed_dim=8,
        depths=[2, 2, 2, 2], num_heads=[1, 2, 2, 2], window_size=2,
    ),
    "ALBERT, one layer four times": lambda: made(
        "AlbertForMaskedLM", "AlbertConfig", embedding_size=8, num_hidden_layers=4, **TEXT
    ),
    "Gemma, layers that share keys and values": gemma,
}  # fmt: skip


@pytest.mark.parametrize("case", COMPLETE)
def test_complete_models_are_read(case: str, tmp_path: Path) -> None:
    model = COMPLETE[case]()
    model.save_pretrained(tmp_path)
    assert read_checkpoint(tmp_path).tensors


def test_a_sequence_of_plain_modules_is_no_stack_of_layers(tmp_path: Path) -> None:
    """What stands between two linear modules has no weights."""
    base = save_base(tmp_path / "base")
    held = load_file(base / "model.safetensors")
    held |= {f"model.pooler.layers.{i}.weight": torch.ones(2) for i in (0, 2)}
    save_file(held, base / "model.safetensors", metadata={"format": "pt"})
    assert read_checkpoint(base).tensors


def test_a_tensor_that_the_task_changes_has_to_be_there(tmp_path: Path) -> None:
    base, task = save_base(tmp_path / "base"), small_task(tmp_path)
    without(base, "model.layers.1.mlp.down")
    with raises(
        AlignmentError, adapter="numbers", module="model.layers.1.mlp.down_proj", file="base"
    ):
        export_merged(task, tmp_path / "out", base=base)


@pytest.mark.parametrize(
    ("settings", "dropped", "tied"),
    [
        ({"tie_word_embeddings": False}, "", False),
        ({"tie_word_embeddings": False}, "lm_head", False),
        ({"tie_word_embeddings": True}, "", True),
        ({"text_config": {"tie_word_embeddings": False}}, "lm_head", False),
        ({}, "", False),
        ({}, "lm_head", True),
    ],
)
def test_what_the_config_says_of_ties_counts(
    settings: dict[str, Any], dropped: str, tied: bool, tmp_path: Path
) -> None:
    base = save_base(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    del config["tie_word_embeddings"]
    (base / "config.json").write_text(json.dumps(config | settings))
    if dropped:
        without(base, dropped)
    assert read_checkpoint(base).tied == tied


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["query_key_value", "embed_in"]},
        {"target_modules": ["lm_head"]},
        {"target_modules": ["query_key_value"], "modules_to_save": ["lm_head"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("said", [True, False], ids=["said", "unsaid"])
def test_the_head_of_gpt_neox_has_a_name_of_its_own(
    settings: dict[str, Any], said: bool, tmp_path: Path
) -> None:
    model = neox(tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "base")
    if not said:
        config = json.loads((tmp_path / "base" / "config.json").read_text())
        del config["tie_word_embeddings"]
        (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    adapter = trained(model, tmp_path / "numbers", r=2, **settings)
    task = bundled(tmp_path, adapter, lossless=True)["numbers"]
    export_merged(task, tmp_path / "out", base=tmp_path / "base")
    load = lambda folder: type(model).from_pretrained(folder, tie_word_embeddings=False)  # noqa: E731
    expected = merged_by_peft(load(tmp_path / "base"), adapter)
    for name, value in load(tmp_path / "out").state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=2e-6, rtol=1e-5)
    before = weights(tmp_path / "base")
    assert any(not torch.equal(x, before[name]) for name, x in weights(tmp_path / "out").items())


def test_an_embedding_of_a_classifier_is_tied_to_nothing(tmp_path: Path) -> None:
    settings = tiny_llama().config.to_dict() | {"num_labels": 3, "pad_token_id": 0}
    model = made("LlamaForSequenceClassification", "LlamaConfig", **settings)
    model.save_pretrained(tmp_path / "base")
    adapter = trained(
        model, tmp_path / "numbers", target_modules=["q_proj", "embed_tokens"], r=2,
        task_type="SEQ_CLS",
    )  # fmt: skip
    task = bundled(tmp_path, adapter, lossless=True)["numbers"]
    export_merged(task, tmp_path / "out", base=tmp_path / "base")
    key = "model.embed_tokens.weight"
    assert not torch.equal(weights(tmp_path / "out")[key], weights(tmp_path / "base")[key])
