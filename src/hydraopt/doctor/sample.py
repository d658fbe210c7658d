"""Two adapters of our own making, small enough to merge in a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np

from hydraopt.bundle.container import header_of

__all__ = ["two_adapters"]

_RANK: Final = 4
_M: Final = 48
_N: Final = 40
_PATHS: Final = tuple(f"model.layers.{i}.self_attn.{x}_proj" for i in range(2) for x in "qv")


def two_adapters(folder: Path) -> list[Path]:
    """Write PEFT folders of one base model under ``folder``; A is the same in both."""
    config = {
        "peft_type": "LORA",
        "r": _RANK,
        "lora_alpha": _RANK,
        "base_model_name_or_path": "hydraopt/sample",
        "target_modules": ["q_proj", "v_proj"],
    }
    common = np.random.default_rng(0).standard_normal((len(_PATHS), _RANK, _N))
    made = []
    for seed, name in enumerate(("one", "two"), 1):
        rng, tensors = np.random.default_rng(seed), {}
        for path, a in zip(_PATHS, common, strict=True):
            own = a + 0.3 * rng.standard_normal(a.shape)
            stem = f"base_model.model.{path}"
            tensors[f"{stem}.lora_A.weight"] = own.astype("<f2")
            b = rng.standard_normal((_M, _RANK)).astype("<f2")
            tensors[f"{stem}.lora_B.weight"] = b
        (folder / name).mkdir()
        (folder / name / "adapter_config.json").write_text(json.dumps(config))
        described = [(key, "F16", x.shape, x.nbytes) for key, x in tensors.items()]
        content = header_of(described, {}) + b"".join(x.tobytes() for x in tensors.values())
        (folder / name / "adapter_model.safetensors").write_bytes(content)
        made.append(folder / name)
    return made
