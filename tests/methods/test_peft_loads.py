"""PEFT loads what HydraOpt made of adapters on a tiny Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import open_bundle, read_adapters
from hydraopt.adapters import Adapter
from hydraopt.merging import apply, merge
from tests.methods.method_cases import apart
from tests.small_model import tiny_llama

pytestmark = [
    # What torch, transformers and PEFT deprecate is not ours to answer for; PEFT also warns of a
    # density of 1.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

NAMES = ("one", "two")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    """Two adapters of PEFT's."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, alpha) in enumerate(zip(NAMES, (8, 20), strict=True)):
        settings = {"r": 4, "lora_alpha": alpha, "target_modules": ["q_proj", "v_proj"]}
        model = get_peft_model(tiny_llama(), LoraConfig(task_type="CAUSAL_LM", **settings))
        torch.manual_seed(seed)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.05)
        model.save_pretrained(folder / name)

    return read_adapters([folder / name for name in NAMES])


def deltas(model: Any, adapter: str) -> dict[str, Any]:
    found = {}
    for path, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A") and adapter in module.lora_A:
            found[path] = module.get_delta_weight(adapter).detach().numpy().astype(np.float64)
    return found


@pytest.mark.parametrize("heads", [1, 2])
def test_peft_loads_what_hydra_made(heads: int, both: list[Adapter], tmp_path: Path) -> None:
    from peft import PeftModel

    made = apply(both, "hydraopt", heads=heads, rank=3)
    merge(made, tmp_path / "all.safetensors", lossless=True)
    bundle = open_bundle(tmp_path / "all.safetensors")
    for adapter in made:
        bundle[adapter.name].save_pretrained(tmp_path / adapter.name)
        model = PeftModel.from_pretrained(
            tiny_llama(), tmp_path / adapter.name, adapter_name=adapter.name
        )
        got = deltas(model, adapter.name)
        assert set(got) == set(adapter.modules)
        for path, delta in got.items():
            b, a = adapter.modules[path].factors()
            assert apart(delta, b.astype(np.float64) @ a) < 1e-6
