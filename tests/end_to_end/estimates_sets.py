"""Small sets of adapters whose estimates are compared with what the commands make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.conftest import write_adapter

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples" / "adapters"
NAMES: Final = ("one-de", "two-en", "three-fr")


def _pair(rng: np.random.Generator, common: Any, m: int, n: int, r: int) -> tuple[Any, Any]:
    """(B, A) whose parts fall; ``common`` (r, n) is the start that all tasks share."""
    falling = 2.0 ** (-np.arange(r) / 2)
    return rng.standard_normal((m, r)) * falling, common + 0.5 * rng.standard_normal((r, n))


def _written(
    folder: Path, shapes: dict[str, tuple[int, int]], r: int, **options: Any
) -> list[Path]:
    made = []
    for seed, name in enumerate(NAMES):
        rng, start = np.random.default_rng(seed), np.random.default_rng(99)
        modules = {
            path: _pair(rng, start.standard_normal((r, n)), m, n, r)
            for path, (m, n) in shapes.items()
        }
        extras = {
            key: (0.05 * rng.standard_normal(shape)).astype(np.float32)
            for key, shape in options.get("heads", {}).items()
        }
        config = options.get("config", {})
        made.append(write_adapter(folder / name, modules, extras=extras, **config))
    return made


def examples(folder: Path) -> list[Path]:
    """Two of the repository's trained adapters."""
    del folder
    return [EXAMPLES / "dates-de", EXAMPLES / "numbers-fr"]


def code(folder: Path) -> list[Path]:
    """Adapters of high rank on wide modules, as of a code model."""
    names = {f"model.layers.{i}.{x}": (96, 160) for i in range(2) for x in ("self_attn.q_proj",)}
    names |= {f"model.layers.{i}.mlp.down_proj": (64, 320) for i in range(2)}
    return _written(folder, names, 16)


def heads(folder: Path) -> list[Path]:
    """Classifiers: a trained head beside the factors."""
    shapes = {f"model.layers.{i}.self_attn.v_proj": (80, 120) for i in range(4)}
    config = {"modules_to_save": ["score"], "task_type": "SEQ_CLS"}
    keys = {"base_model.model.score.weight": (6, 120)}
    return _written(folder, shapes, 8, heads=keys, config=config)


def images(folder: Path) -> list[Path]:
    """Adapters of an image model: text encoder and denoiser, without a language of their own."""
    shapes = {
        f"unet.down_blocks.{i}.attentions.0.transformer_blocks.0.attn1.to_{x}": (120, 96)
        for i in range(2)
        for x in "qv"
    }
    shapes["text_encoder.text_model.encoder.layers.0.self_attn.q_proj"] = (64, 64)
    return _written(folder, shapes, 4)


SETS: Final[dict[str, Callable[[Path], list[Path]]]] = {
    "examples": examples,
    "code": code,
    "heads": heads,
    "images": images,
}
