"""Tasks with every kind of tensor that PEFT saves: attached, exported into PEFT, merged: one model.

A way that cannot hold a kind refuses it by its typed error; the others agree within rounding at
every size, and come near the original where the error is small.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hydraopt import attach, merge, open_bundle
from hydraopt.cli.main import cli
from hydraopt.errors import ExportError, UsageError
from hydraopt.export import export_merged
from tests.marks import slow
from tests.small_model import tiny_llama

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)

IDS = torch.arange(2 * 9).reshape(2, 9) * 7 % 90 + 3
COPY = "base_model.model.lm_head.base_layer.weight"


def lora(*targets: str, **settings: Any) -> Callable[[], peft.PeftConfig]:
    return lambda: peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=["q_proj", *targets], **settings
    )


KINDS: dict[str, Callable[[], peft.PeftConfig]] = {
    "linear": lora(),
    "head": lora("lm_head"),
    "embedding": lora("embed_tokens"),
    "head and embedding": lora("lm_head", "embed_tokens"),
    "head and embedding tied": lora("embed_tokens", ensure_weight_tying=True),
    "saved head": lora(modules_to_save=["lm_head"]),
    "saved embedding": lora(modules_to_save=["embed_tokens"]),
    "saved head and embedding": lora(modules_to_save=["lm_head", "embed_tokens"]),
    "saved norm": lora(modules_to_save=["norm"]),
    "biases": lora(bias="all"),
    "bias of B": lora(lora_bias=True),
    "DoRA": lora(use_dora=True),
    "DoRA of the head": lora("lm_head", use_dora=True),
    "token rows": lora(trainable_token_indices=[3, 10, 17]),
    "AdaLoRA of the head": lambda: peft.AdaLoraConfig(
        init_r=4, target_r=2, total_step=9, target_modules=["q_proj", "lm_head"]
    ),
    "LoHa of the head": lambda: peft.LoHaConfig(r=2, target_modules=["q_proj", "lm_head"]),
    "IA3 of the head": lambda: peft.IA3Config(
        target_modules=["k_proj", "lm_head"], feedforward_modules=[]
    ),
}


OFTEN = {("head and embedding", False), ("head and embedding tied", True), ("biases", False)}
"""Cases of the default suite: kind, and whether the base's head and embedding are one tensor."""
CASES = [
    (kind, tied) if (kind, tied) in OFTEN else slow(kind, tied)
    for kind in KINDS
    for tied in (False, True)
]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(IDS).logits
    return found


def base_at(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def tiny_base(tied: bool) -> Any:
    return tiny_llama(tie_word_embeddings=tied, attention_bias=True)


def make(folder: Path, kind: str, tied: bool) -> torch.Tensor:
    """Write the base and two adapters; return the logits of the first, "x"."""
    tiny_base(tied).save_pretrained(folder / "base")
    found = []
    for seed, name in enumerate("xy"):
        torch.manual_seed(seed)
        model = peft.get_peft_model(tiny_base(tied), KINDS[kind]())
        with torch.no_grad():
            for value in model.parameters():
                if value.requires_grad:
                    value.add_(torch.randn_like(value) * (0.02 if value.dim() > 1 else 0.1))
        found.append(logits(model))
        model.save_pretrained(folder / name)
    return found[0]


def ways(folder: Path) -> dict[str, torch.Tensor]:
    """Logits of task "x" of the bundle, by each way that takes it."""
    bundle, base = folder / "b.hydra.safetensors", folder / "base"
    task = open_bundle(bundle)["x"]

    def attached() -> torch.Tensor:
        model = base_at(base).eval()
        with attach(model, bundle) as on:
            on.set_task("x")
            return logits(model)

    def exported() -> torch.Tensor:
        task.save_pretrained(folder / "out", dtype="float32")
        return logits(peft.PeftModel.from_pretrained(base_at(base), folder / "out"))

    def merged() -> torch.Tensor:
        export_merged(task, folder / "merged", base=base)
        return logits(base_at(folder / "merged"))

    found = {"exported": exported()}
    for name, way in (("attached", attached), ("merged", merged)):
        try:
            found[name] = way()
        except (UsageError, ExportError):
            continue
    return found


@pytest.mark.parametrize(("kind", "tied"), CASES)
def test_all_ways_give_one_model(kind: str, tied: bool, tmp_path: Path) -> None:
    original = make(tmp_path, kind, tied)
    effect = (original - logits(base_at(tmp_path / "base"))).norm()
    assert effect > 1e-4
    lost = []
    for limit in ({"lossless": True}, {"max_error": 0.8}):
        merge([tmp_path / "x", tmp_path / "y"], tmp_path / "b.hydra.safetensors", **limit)
        found = ways(tmp_path)
        for logits_of_way in found.values():
            assert (logits_of_way - found["exported"]).norm() < 2e-4 * effect + 1e-5
        lost.append(float((found["exported"] - original).norm() / effect))
        for folder in ("out", "merged"):
            for file in (tmp_path / folder).glob("*"):
                file.unlink()
    assert lost[0] < 1e-3 + 1e-5 / effect
    assert lost[1] < 2


def test_a_lossless_task_keeps_its_copy(tmp_path: Path) -> None:
    make(tmp_path, "head", True)
    merge([tmp_path / "x"], tmp_path / "b", lossless=True)
    open_bundle(tmp_path / "b")["x"].save_pretrained(tmp_path / "out")
    one, two = (load_file(tmp_path / x / "adapter_model.safetensors") for x in ("x", "out"))
    assert torch.equal(one[COPY], two[COPY])


@pytest.mark.parametrize("exact", [False, True])
def test_another_weight_than_the_bases_comes_back(exact: bool, tmp_path: Path) -> None:
    """Where the base is at hand, or the copy is kept bit by bit, it is not taken for the base's."""
    make(tmp_path, "head", False)
    file = tmp_path / "x" / "adapter_model.safetensors"
    held = load_file(file)
    held[COPY] = held[COPY] * 1.3
    save_file(held, file)
    notes = merge(
        [tmp_path / "x"], tmp_path / "b", max_error=0.05, exact=("*.base_layer.*",) * exact
    ).notes
    assert any("lm_head" in note.where for note in notes) != exact
    words = ["export", str(tmp_path / "b"), "x", "-o", str(tmp_path / "out")]
    words += [] if exact else ["--base", str(tmp_path / "base")]
    cli(words, standalone_mode=False)
    got = load_file(tmp_path / "out" / "adapter_model.safetensors")[COPY]
    assert (got - held[COPY]).norm() < 0.1 * held[COPY].norm()
