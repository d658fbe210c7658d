"""Merged checkpoints are what PEFT's merge_and_unload makes, in the files of the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from hydraopt.bundle import TaskAdapter
from hydraopt.bundle.peft.folder import export_peft
from hydraopt.errors import AlignmentError, ExportError, UsageError
from hydraopt.export import export_merged
from tests.conftest import write_adapter
from tests.export.targets import bundled, pairs, save_base, small_task
from tests.raising import raises
from tests.small_model import tiny_llama

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


def merged_by_peft(model: Any, adapter: Path) -> dict[str, torch.Tensor]:
    """State dict after merge_and_unload; tied names are left out as save_pretrained does."""
    merged = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return dict(merged.state_dict())


def trained(model: Any, folder: Path, **settings: Any) -> Path:
    """An adapter that PEFT made for the model, with random numbers in place of training."""
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if value.requires_grad and "magnitude" not in name:
                value.add_(torch.randn_like(value) / 8)
    wrapped.save_pretrained(folder)
    return folder


CASES: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "down_proj"], "r": 3, "lora_alpha": 5},
    "rslora and patterns": {
        "target_modules": ["q_proj", "up_proj"], "r": 3, "lora_alpha": 5, "use_rslora": True,
        "rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 7},
    },
    "dora": {"target_modules": ["q_proj", "k_proj"], "r": 2, "lora_alpha": 5, "use_dora": True},
    "head": {"target_modules": ["lm_head", "q_proj"], "r": 2, "lora_alpha": 5},
    "embedding": {"target_modules": ["embed_tokens"], "r": 2, "lora_alpha": 5},
    "saved": {"target_modules": ["q_proj"], "r": 2, "modules_to_save": ["lm_head"]},
    "biases": {"target_modules": ["q_proj"], "r": 2, "lora_alpha": 3, "bias": "all"},
    "bias of B": {"target_modules": ["q_proj"], "r": 2, "lora_alpha": 3, "lora_bias": True},
}  # fmt: skip


def biased_llama() -> Any:
    """Embeddings apart, so that each can be changed, and biases in attention."""
    return tiny_llama(attention_bias=True)


@pytest.mark.parametrize("case", sorted(CASES))
def test_equal_to_merge_and_unload(case: str, tmp_path: Path) -> None:
    model = biased_llama()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.bias.normal_()
    model.save_pretrained(tmp_path / "base")
    adapter = trained(model, tmp_path / "numbers", **CASES[case])
    task = bundled(tmp_path, adapter, lossless=True)["numbers"]
    export_merged(task, tmp_path / "out", base=tmp_path / "base")
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    expected = merged_by_peft(fresh, adapter)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert set(found) == set(expected)
    changed = 0
    old = weights(tmp_path / "base")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-6, rtol=1e-5)
        changed += not torch.equal(old[name], value)
    assert changed >= 1


def tiny_gpt2(folder: Path) -> GPT2LMHeadModel:
    """A model whose layers are Conv1D, saved in ``folder``; attention's c_proj is square."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=31, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    )
    model.save_pretrained(folder)
    return model


def test_gpt2_keeps_its_weights_the_other_way_round(tmp_path: Path) -> None:
    model = tiny_gpt2(tmp_path / "base")
    adapter = trained(
        model, tmp_path / "numbers", target_modules=["c_attn", "attn.c_proj"], r=2, lora_alpha=5,
        fan_in_fan_out=True,
    )  # fmt: skip
    task = bundled(tmp_path, adapter, lossless=True)["numbers"]
    export_merged(task, tmp_path / "out", base=tmp_path / "base")
    fresh = GPT2LMHeadModel.from_pretrained(tmp_path / "base")
    expected = merged_by_peft(fresh, adapter)
    found = GPT2LMHeadModel.from_pretrained(tmp_path / "out").state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-6, rtol=1e-5)


def test_shards_types_and_other_files_stay(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", torch.bfloat16, max_shard_size="20KB")
    (base / "merges.txt").write_text("a b")
    (base / "leftover.bin").write_bytes(b"not weights of this model")
    export_merged(small_task(tmp_path), tmp_path / "out", base=base)
    names = {x.name for x in base.iterdir()} - {"leftover.bin"}
    assert {x.name for x in (tmp_path / "out").iterdir()} == {*names, "README.md"}
    assert len([x for x in names if x.endswith(".safetensors")]) > 1
    for name in ("config.json", "merges.txt", "model.safetensors.index.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert found.dtype == torch.bfloat16


def test_bf16_is_the_nearest(tmp_path: Path) -> None:
    """One rounding of the exact sum; PEFT rounds the change first and then the sum."""
    base = save_base(tmp_path / "base", torch.bfloat16)
    task = small_task(tmp_path)
    export_merged(task, tmp_path / "out", base=base)
    old, new = weights(base), weights(tmp_path / "out")
    for path, factors in task.factors().items():
        exact = old[f"{path}.weight"].double() + torch.from_numpy(factors.B @ factors.A)
        assert torch.equal(new[f"{path}.weight"], exact.to(torch.bfloat16))


def test_large_weights_are_done_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, task = save_base(tmp_path / "base"), small_task(tmp_path)
    export_merged(task, tmp_path / "whole", base=base)
    monkeypatch.setattr("hydraopt.export.merged.MOST_ROWS", 5)
    export_merged(task, tmp_path / "blocks", base=base)
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "blocks")[name], value, atol=1e-7, rtol=0)


def test_checkpoints_of_the_model_without_its_head(tmp_path: Path) -> None:
    """As GPT-2's, whose tensors lack the "transformer." that adapters' names have."""
    whole, task = save_base(tmp_path / "base"), small_task(tmp_path)
    export_merged(task, tmp_path / "whole", base=whole)
    bare = tmp_path / "bare"
    tiny_llama().model.save_pretrained(bare)
    export_merged(task, tmp_path / "out", base=bare)
    found, expected = weights(tmp_path / "out"), weights(tmp_path / "whole")
    for name, value in found.items():
        assert torch.equal(value, expected[f"model.{name}"])


def tied(tmp_path: Path) -> Path:
    model = tiny_llama(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("case", ["head", "embedding", "saved"])
def test_one_of_two_tied_embeddings_is_refused(case: str, tmp_path: Path) -> None:
    base = tied(tmp_path)
    adapter = trained(biased_llama(), tmp_path / "numbers", **CASES[case])
    task = bundled(tmp_path, adapter, lossless=True)["numbers"]
    with pytest.raises(ExportError):
        export_merged(task, tmp_path / "out", base=base)
    assert not (tmp_path / "out").exists()


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    export_merged(small_task(tmp_path), tmp_path / "out", base=tied(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def head_task(tmp_path: Path) -> TaskAdapter:
    extras = {"base_model.model.score.weight": np.ones((2, 32), np.float32)}
    return bundled(tmp_path, write_adapter(tmp_path / "numbers", pairs(), extras=extras))["numbers"]


def test_another_base_is_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    with raises(
        AlignmentError,
        adapter="numbers",
        module="score.weight",
        file="base",
        expected="score.weight",
    ):
        export_merged(head_task(tmp_path), tmp_path / "out", base=base)
    other = tmp_path / "other"
    tiny_llama(intermediate_size=40).save_pretrained(other)
    with raises(
        AlignmentError,
        adapter="numbers",
        module="model.layers.0.mlp.down_proj",
        got="(32, 40)",
        expected="(32, 48)",
    ):
        export_merged(small_task(tmp_path), tmp_path / "out", base=other)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "facts"),
    [
        (lambda x: (x / "config.json").unlink(), {"file": "base", "expected": "config.json"}),
        (lambda x: (x / "config.json").write_text("["), {"file": "base"}),
        (lambda x: (x / "config.json").write_text('{"quantization_config": {"bits": 4}}'), {}),
        (lambda x: (x / "model.safetensors").unlink(), {"file": "base"}),
        (lambda x: (x / "model.safetensors").write_bytes(bytes(20)), {}),
        (lambda x: (x / "adapter_config.json").write_text("{}"), {"file": "base"}),
        (lambda x: index(x, {"a": "../model.safetensors"}), {"file": "base"}),
        (lambda x: index(x, {"a": "gone.safetensors"}), {}),
        (lambda x: index(x, "a"), {"file": "base", "got": "model.safetensors.index.json"}),
        (lambda x: index(x, {"a": ["b"]}), {"file": "base", "got": "model.safetensors.index.json"}),
        (lambda x: (x / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b"}}'),
         {"file": "base", "got": "'a' in b", "expected": "model.safetensors.index.json"}),
        (lambda x: without(x, "model.layers.0"), {"file": "base", "got": "1: model.layers.0"}),
        (lambda x: without(x, "model.layers.1"), {"file": "base", "got": "1: model.layers.1"}),
    ],
)  # fmt: skip
def test_hostile_bases(damage: Any, facts: dict[str, object], tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    damage(base)
    with raises(UsageError, **facts):
        export_merged(small_task(tmp_path), tmp_path / "out", base=base)
    assert not (tmp_path / "out").exists()


def without(base: Path, start: str) -> None:
    held = load_file(base / "model.safetensors")
    kept = {key: x for key, x in held.items() if not key.startswith(start)}
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})


def index(base: Path, weight_map: Any) -> None:
    (base / "model.safetensors").rename(base / "elsewhere.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.slow
def test_equal_to_merge_and_unload_on_a_real_base(tmp_path: Path) -> None:
    from zoo.bases import BaseError, base_folder, load_base

    try:
        base = base_folder("smollm2-135m-instruct")
    except BaseError as error:
        pytest.skip(f"the base model's package is not installed: {error}")
    adapter = Path(__file__).resolve().parents[2] / "examples" / "adapters" / "dates-de"
    task = bundled(tmp_path, adapter, step=64)["dates-de"]
    export_merged(task, tmp_path / "out", base=base)
    export_peft(task, tmp_path / "peft", dtype="float32")
    expected = merged_by_peft(load_base("smollm2-135m-instruct")[0], tmp_path / "peft")
    found = weights(tmp_path / "out")
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)


def test_a_conv1d_of_an_unknown_model_is_known_by_the_adapter(tmp_path: Path) -> None:
    """The weight is square, so that its shape would not tell."""
    model = tiny_gpt2(tmp_path / "base")
    adapter = trained(
        model, tmp_path / "numbers", target_modules=["attn.c_proj"], r=2, fan_in_fan_out=True
    )
    task = bundled(tmp_path, adapter, lossless=True)["numbers"]
    export_merged(task, tmp_path / "known", base=tmp_path / "base")
    config = tmp_path / "base" / "config.json"
    about = json.loads(config.read_text())
    config.write_text(json.dumps(about | {"model_type": "gpt2-like"}))
    export_merged(task, tmp_path / "out", base=tmp_path / "base")
    for name, value in weights(tmp_path / "known").items():
        assert torch.equal(weights(tmp_path / "out")[name], value)


def test_an_earlier_checkpoint_does_not_stay_beside_the_new_one(tmp_path: Path) -> None:
    model = tiny_llama()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    adapter = trained(model, tmp_path / "numbers", target_modules=["q_proj"], r=2)
    task = bundled(tmp_path, adapter, lossless=True)["numbers"]
    out = tmp_path / "out"
    export_merged(task, out, base=tmp_path / "shards")
    right = weights(out)
    for first, second in (("whole", "shards"), ("shards", "whole")):
        export_merged(task, out, base=tmp_path / first, overwrite=True)
        for mine in ("notes.gguf", "model_before.safetensors"):
            (out / mine).write_text("mine")
        export_merged(task, out, base=tmp_path / second, overwrite=True)
        for mine in ("notes.gguf", "model_before.safetensors"):
            assert (out / mine).read_text() == "mine"
            (out / mine).unlink()
        loaded = AutoModelForCausalLM.from_pretrained(out).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in right.items())
        assert (out / "model.safetensors").exists() == (second == "whole")


def test_a_merged_model_does_not_go_below_an_adapter(tmp_path: Path) -> None:
    model = tiny_llama()
    model.save_pretrained(tmp_path / "base")
    adapter = trained(model, tmp_path / "numbers", target_modules=["q_proj"], r=2)
    task = bundled(tmp_path, adapter, lossless=True)["numbers"]
    before = {x.name: x.read_bytes() for x in adapter.iterdir()}
    with pytest.raises(UsageError):
        export_merged(task, adapter, base=tmp_path / "base", overwrite=True)
    assert {x.name: x.read_bytes() for x in adapter.iterdir()} == before


def zero_row(tmp_path: Path, magnitude: float) -> TaskAdapter:
    """DoRA on the base in tmp_path / "base", where the change leaves a row of zeros as it is."""
    base, path = save_base(tmp_path / "base"), "model.layers.0.self_attn.q_proj"
    held = load_file(base / "model.safetensors")
    held[f"{path}.weight"][3] = 0
    save_file(held, base / "model.safetensors", metadata={"format": "pt"})
    b, a = pairs()[path]
    b[3] = 0
    lengths = np.ones(32, np.float32)
    lengths[3] = magnitude
    extras = {f"base_model.model.{path}.lora_magnitude_vector": lengths}
    adapter = write_adapter(tmp_path / "n", {path: (b, a)}, extras=extras, use_dora=True)
    return bundled(tmp_path, adapter, lossless=True)["n"]


def test_dora_leaves_a_row_of_zeros_or_says_that_it_cannot(tmp_path: Path) -> None:
    export_merged(zero_row(tmp_path, 0), tmp_path / "out", base=tmp_path / "base")
    made = weights(tmp_path / "out")["model.layers.0.self_attn.q_proj.weight"]
    assert not made[3].any()
    torch.testing.assert_close(made[:3].norm(dim=1), torch.ones(3))
    (tmp_path / "other").mkdir()
    with raises(ExportError, adapter="n", module="model.layers.0.self_attn.q_proj"):
        export_merged(
            zero_row(tmp_path / "other", 1),
            tmp_path / "other" / "out",
            base=tmp_path / "other" / "base",
        )


def test_weights_in_other_formats_stay_behind(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    stale = ("model.onnx", "rust_model.ot", "model.ckpt", "tf_model.h5")
    for name in (*stale, "pytorch_model.bin.index.json", "tf_model.h5.index.json"):
        (base / name).write_bytes(b"of the base")
    export_merged(small_task(tmp_path), tmp_path / "out", base=base)
    assert {x.name for x in (tmp_path / "out").iterdir()} == {
        "README.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer_config.json",
    }  # fmt: skip


def test_a_bias_that_files_hold_once_is_trained_once(tmp_path: Path) -> None:
    """BERT's decoder has the bias of the module around it."""
    config = BertConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForMaskedLM(config)
    model.save_pretrained(tmp_path / "base")
    adapter = trained(model, tmp_path / "n", target_modules=["query"], r=2, bias="all")
    task = bundled(tmp_path, adapter, lossless=True)["n"]
    export_merged(task, tmp_path / "out", base=tmp_path / "base")
    expected = merged_by_peft(BertForMaskedLM.from_pretrained(tmp_path / "base"), adapter)
    for name, value in BertForMaskedLM.from_pretrained(tmp_path / "out").state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=2e-6, rtol=1e-5)
    held = load_file(adapter / "adapter_model.safetensors")
    held["base_model.model.cls.predictions.decoder.bias"] += 1
    save_file(held, adapter / "adapter_model.safetensors")
    (tmp_path / "other").mkdir()
    task = bundled(tmp_path / "other", adapter, lossless=True)["n"]
    with raises(ExportError, adapter="n", module="cls.predictions.decoder.bias"):
        export_merged(task, tmp_path / "no", base=tmp_path / "base")
