"""Sound files to damage: small adapters in several formats, and bundles made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Tensors = dict[str, NDArray[Any]]


def tensors(seed: int, m: int = 24, n: int = 32, r: int = 4, layers: int = 3) -> Tensors:
    """PEFT tensors of a random adapter whose inputs are common to all seeds."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(10**6)
    result: Tensors = {}
    for layer in range(layers):
        for side in ("q_proj", "v_proj"):
            key = f"base_model.model.model.layers.{layer}.self_attn.{side}"
            a = common.standard_normal((r, n)) + 0.1 * rng.standard_normal((r, n))
            result[f"{key}.lora_A.weight"] = a.astype(np.float32)
            result[f"{key}.lora_B.weight"] = rng.standard_normal((m, r)).astype(np.float32) / 10
    return result


def write_peft(folder: Path, data: Tensors, rank: int = 4) -> Path:
    """A PEFT folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(data, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "org/tiny",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def write_samples(folder: Path) -> tuple[list[Path], list[Path]]:
    """(adapters, bundles) under ``folder``: PEFT with and without other tensors, kohya, MLX; and
    bundles with shared bases, private ones, lossless ones, ones with carried tensors."""
    from hydraopt.merging.merge import merge

    plain = [write_peft(folder / f"plain{i}", tensors(i)) for i in range(3)]
    head = {"base_model.model.lm_head.weight": np.ones((7, 9), np.float16)}
    headed = write_peft(folder / "headed", tensors(7) | head)
    kohya: Tensors = {}
    for name in ("lora_unet_down_attn1_to_q", "lora_te_text_model_mlp_fc1"):
        rng = np.random.default_rng(len(name))
        kohya[f"{name}.lora_down.weight"] = rng.standard_normal((4, 16)).astype(np.float16)
        kohya[f"{name}.lora_up.weight"] = rng.standard_normal((12, 4)).astype(np.float16)
        kohya[f"{name}.alpha"] = np.array(2.0, np.float16)
    image = folder / "image.safetensors"
    save_file(kohya, image)
    bundles = [folder / f"bundle{i}.hydra.safetensors" for i in range(5)]
    merge(plain, bundles[0], error=0.02, threads=1)
    merge([*plain, headed], bundles[1], error=0.3, threads=1)
    merge(plain, bundles[2], error=0.2, forms=["private"], threads=1)
    merge([plain[0], headed], bundles[3], lossless=True)
    merge([image], bundles[4], error=0.1, threads=1)
    return [*plain[:1], headed, image], bundles
