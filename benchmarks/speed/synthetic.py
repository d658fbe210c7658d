"""Make adapters of any width with a known structure: a common start, and a part of each task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

__all__ = ["square_modules", "write_adapters"]

Shapes = Mapping[str, tuple[int, int]]
"""(m, n) by module path."""


def square_modules(width: int, count: int) -> Shapes:
    """Return one module of (width, width) in each of ``count`` layers."""
    return {f"model.layers.{i}.self_attn.q_proj": (width, width) for i in range(count)}


def write_adapters(folder: Path, shapes: Shapes, tasks: int, rank: int, seed: int) -> list[Path]:
    """Write ``tasks`` PEFT folders in fp16, scale 1; A = A_0 + noise, singular values falling.

    The first tasks of many are those that are written when they are fewer.
    """
    rng = np.random.default_rng(seed)
    starts = {name: rng.standard_normal((rank, n)) for name, (_, n) in shapes.items()}
    falling = np.geomspace(1, 0.05, rank)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": f"synthetic-{folder.name}",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({name.split(".")[-1] for name in shapes}),
        "bias": "none",
        "task_type": None,
    }
    made = []
    for task in range(tasks):
        place = folder / f"task-{task}"
        place.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, (m, n) in shapes.items():
            a = starts[name] + rng.standard_normal((rank, n))
            b = rng.standard_normal((m, rank)) * falling
            key = f"base_model.model.{name}.lora"
            tensors[f"{key}_A.weight"] = (a / np.sqrt(n)).astype(np.float16)
            tensors[f"{key}_B.weight"] = (b / np.sqrt(m)).astype(np.float16)
        save_file(tensors, str(place / "adapter_model.safetensors"))
        (place / "adapter_config.json").write_text(json.dumps(config, indent=1))
        made.append(place)
    return made
