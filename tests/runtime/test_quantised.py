"""Bases in 4 and 8 bits: bitsandbytes' own layers, against PEFT on the same model.

Needs bitsandbytes and accelerate, which compute on a CPU as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hydraopt import attach, merge, open_bundle
from tests.conftest import write_adapter
from tests.runtime.conftest import hooks_of
from tests.small_model import tiny_llama

pytestmark = [
    # What torch, transformers, bitsandbytes and PEFT deprecate or advise is not ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
pytest.importorskip("accelerate", reason="accelerate is not installed; see the extra 'engines'")
pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; as accelerate")

SHAPES = {
    "self_attn.q_proj": (128, 128),
    "self_attn.v_proj": (64, 128),
    "mlp.down_proj": (128, 256),
}
IDS = torch.arange(4 * 9).reshape(4, 9) * 7 % 90 + 3
BITS = ("load_in_4bit", "load_in_8bit")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks that share spaces, so that cores and heads are both there."""
    folder = tmp_path_factory.mktemp("quantised")
    made = []
    for seed, name in enumerate(("de", "en", "fr")):
        own = np.random.default_rng(seed)
        modules = {}
        for layer in range(2):
            for place, (m, n) in SHAPES.items():
                spaces = np.random.default_rng(m * n + layer)
                outputs, inputs = spaces.standard_normal((m, 5)), spaces.standard_normal((5, n))
                modules[f"model.layers.{layer}.{place}"] = (
                    0.05 * outputs @ own.standard_normal((5, 4)),
                    0.05 * own.standard_normal((4, 5)) @ inputs,
                )
        made.append(write_adapter(folder / name, modules))
    merge(made, folder / "b.hydra.safetensors", size="40%")
    return folder / "b.hydra.safetensors"


def quantised(folder: Path, bits: str) -> Any:
    if not folder.exists():
        tiny_llama(hidden_size=128, intermediate_size=256).save_pretrained(folder)
    config = BitsAndBytesConfig(**{bits: True}, bnb_4bit_compute_dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map="cpu", dtype=torch.float32
    ).eval()


@torch.no_grad()
def logits(model: Any, **more: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, **more).logits
    return found


@pytest.mark.parametrize("bits", BITS)
def test_logits_are_those_of_peft_on_the_same_base(bundle, bits, tmp_path) -> None:
    from peft import PeftModel

    opened = open_bundle(bundle)
    model = quantised(tmp_path / "base", bits)
    plain = logits(model)
    # Not state_dict(), for which bitsandbytes 0.50 unpacks 4-bit weights, and computes otherwise.
    weights = {name: x.clone() for name, x in model.named_parameters()}
    got = {}
    with attach(model, bundle) as attached:
        for name in attached.tasks:
            attached.set_task(name)
            got[name] = logits(model)
        names = ["fr", "de", None, "en"]
        attached.set_tasks(names)
        mixed = logits(model)
    assert hooks_of(model) == 0
    assert torch.equal(logits(model), plain)
    assert all(torch.equal(x, weights[name]) for name, x in model.named_parameters())
    for row, name in enumerate(names):
        right = plain if name is None else got[name]
        assert (mixed[row] - right[row]).abs().max() < 0.02 * (got["de"] - plain).abs().max()
    for name, found in got.items():
        opened[name].save_pretrained(tmp_path / name, dtype="float32")
        peft = PeftModel.from_pretrained(quantised(tmp_path / "base", bits), tmp_path / name).eval()
        right = logits(peft)
        change = (right - plain).norm()
        assert change > 0.1 * plain.norm()  # the task does something
        assert (found - right).norm() < 2e-2 * change
