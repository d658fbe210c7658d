"""The small model, and bundles of adapters that share spaces, each forced into one form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hydraopt import merge, open_bundle
from hydraopt.adapters import Adapter, read_adapter
from hydraopt.model import attached as reference, place
from tests.conftest import write_adapter
from tests.small_model import trained
from tests.starting import near_start, started

__all__ = ["trained"]

FORM_NAMES = ("private", "shared-input", "shared-output", "two-sided", "predicted", "started")
TASKS = ("de", "en", "es", "fr")
Q = "model.layers.0.self_attn.q_proj"
SHAPES = {"self_attn.q_proj": (32, 32), "self_attn.v_proj": (16, 32), "mlp.down_proj": (32, 64)}
MODULES = {f"model.layers.{i}.{name}": x for i in range(2) for name, x in SHAPES.items()}


def pairs(seed: int, rank: int, leave_out: str = "") -> dict[str, Any]:
    """(B, A) of each module; all seeds draw from the same spaces of inputs and outputs."""
    own = np.random.default_rng(seed)
    result = {}
    for path, (m, n) in MODULES.items():
        spaces = np.random.default_rng(len(path) * m + n)
        outputs, inputs = spaces.standard_normal((m, 5)), spaces.standard_normal((5, n))
        b = outputs @ own.standard_normal((5, rank)) + 0.05 * own.standard_normal((m, rank))
        a = own.standard_normal((rank, 5)) @ inputs + 0.05 * own.standard_normal((rank, n))
        if not leave_out or leave_out not in path:
            result[path] = (0.02 * b, 0.1 * a)
    return result


def adapters(folder: Path, base: str = "org/tiny") -> list[Path]:
    """Four adapters, unlike in rank; "fr" leaves a kind of module alone."""
    return [
        write_adapter(folder / name, pairs(i, 3 + i % 2, "v_proj" if name == "fr" else ""))
        for i, name in enumerate(TASKS)
    ]


def near(folder: Path) -> list[Adapter]:
    """The four, near an initial A that they know."""
    made = []
    for i, name in enumerate(TASKS):
        modules = near_start(pairs(i, 3 + i % 2, "v_proj" if name == "fr" else ""), seed=i)
        made.append(started(read_adapter(write_adapter(folder / name, modules)), seed=i))
    return made


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of the bundle whose records all have that form; "all": whatever the planner takes;
    "lossless": nothing is coded."""
    folder = tmp_path_factory.mktemp("bundles")
    made: dict[str, Path] = {}
    sources = adapters(folder / "adapters")

    def build(form: str) -> Path:
        if form not in made:
            path = folder / f"{form}.hydra.safetensors"
            if form == "lossless":
                merge(sources, path, lossless=True)
            else:
                forms = None if form == "all" else [form]
                given = near(folder / "near") if form == "started" else sources
                merge(given, path, error=0.05, forms=forms, workers=1)
            made[form] = path
        return made[form]

    return build


@pytest.fixture
def model(trained: tuple[Any, Any]) -> Any:
    """The small model; a test that changes it has to put it back."""
    return trained[0]


IDS = torch.arange(4 * 9).reshape(4, 9) * 7 % 250 + 3


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=ids).logits
    return found


def expected(model: Any, bundle: Path, name: str | None, ids: torch.Tensor = IDS) -> torch.Tensor:
    """Logits with the task's factors on the model, as the evaluation puts them there."""
    if name is None:
        return logits(model, ids)
    factors = {path: (x.B, x.A) for path, x in open_bundle(bundle)[name].factors().items()}
    with reference(model, place(model, factors)):
        return logits(model, ids)


def close(got: torch.Tensor, right: torch.Tensor) -> bool:
    """Equal to the rounding of float32 products."""
    return bool(torch.allclose(got, right, atol=5e-5, rtol=1e-5))


def hooks_of(model: torch.nn.Module) -> int:
    return sum(len(x._forward_hooks) + len(x._forward_pre_hooks) for x in model.modules())
