"""Make a fleet of known structure: half unlike adapters, half near-copies in families of ten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file

from benchmarks.speed.synthetic import Shapes

__all__ = ["FAMILY", "write_fleet"]

FAMILY: Final = 10
_NOISE: Final = 0.05
"""Of a near-copy, relative to the first of its family."""


def write_fleet(folder: Path, shapes: Shapes, tasks: int, rank: int, seed: int) -> list[Path]:
    """Write PEFT folders in fp16, scale 1.

    Every second ten is a family, whose members are the first one and noise. What a task holds
    depends on its number alone, so few are the first of many.
    """
    made = []
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "fleet",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({name.split(".")[-1] for name in shapes}),
        "bias": "none",
        "task_type": None,
    }
    for task in range(tasks):
        place = folder / f"task-{task:05d}"
        if not (place / "adapter_config.json").is_file():
            place.mkdir(parents=True, exist_ok=True)
            tensors = dict(_tensors(shapes, task, rank, seed))
            save_file(tensors, str(place / "adapter_model.safetensors"))
            (place / "adapter_config.json").write_text(json.dumps(config))
        made.append(place)
    return made


def _tensors(
    shapes: Shapes, task: int, rank: int, seed: int
) -> Iterator[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.float16]]]]:
    family = task // FAMILY
    like = family % 2 == 1
    first = np.random.default_rng([seed, 1, family] if like else [seed, 2, task])
    own = np.random.default_rng([seed, 3, task])
    falling = np.geomspace(1, 0.05, rank)
    for name, (m, n) in shapes.items():
        a, b = first.standard_normal((rank, n)), first.standard_normal((m, rank)) * falling
        if like:
            a = a + _NOISE * own.standard_normal(a.shape)
            b = b + _NOISE * own.standard_normal(b.shape) * falling
        key = f"base_model.model.{name}.lora"
        yield f"{key}_A.weight", (a / np.sqrt(n)).astype(np.float16)
        yield f"{key}_B.weight", (b / np.sqrt(m)).astype(np.float16)
