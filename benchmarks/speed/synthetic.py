"""Adapters of any width with a known make-up: a common start, and what each task learned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

__all__ = ["write_synthetic"]


def write_synthetic(
    folder: Path, width: int, modules: int, tasks: int, rank: int, seed: int
) -> list[Path]:
    """Write ``tasks`` PEFT folders of square modules; A = A_0 + noise, singular values falling."""
    rng = np.random.default_rng(seed)
    names = [f"model.layers.{i}.self_attn.q_proj" for i in range(modules)]
    starts = {name: rng.standard_normal((rank, width)) for name in names}
    falling = np.geomspace(1, 0.05, rank)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": f"synthetic-{width}",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj"],
        "bias": "none",
        "task_type": None,
    }
    made = []
    for task in range(tasks):
        place = folder / f"width-{width}" / f"task-{task}"
        place.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name in names:
            a = starts[name] + rng.standard_normal((rank, width))
            b = rng.standard_normal((width, rank)) * falling
            key = f"base_model.model.{name}.lora"
            tensors[f"{key}_A.weight"] = (a / np.sqrt(width)).astype(np.float16)
            tensors[f"{key}_B.weight"] = (b / np.sqrt(width)).astype(np.float16)
        save_file(tensors, str(place / "adapter_model.safetensors"))
        (place / "adapter_config.json").write_text(json.dumps(config, indent=1))
        made.append(place)
    return made
