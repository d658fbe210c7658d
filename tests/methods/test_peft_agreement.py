"""PEFT's add_weighted_adapter on a tiny Llama and our methods on the same adapters' files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from method_cases import apart

from hydraopt import open_bundle, read_adapters
from hydraopt.adapters import Adapter
from hydraopt.merging.merge import merge
from hydraopt.methods import apply
from hydraopt.methods.blocks import uniform
from tests.small_model import tiny_llama

pytestmark = [
    # What torch, transformers and PEFT deprecate is not ours to answer for; PEFT also warns of a
    # density of 1.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

NAMES = ("one", "two")
WEIGHTS = [0.7, 0.6]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Callable[[], Any], list[Adapter]]:
    """(a function that loads the model with both adapters, the adapters as we read them)."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

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

    def load() -> Any:
        model = PeftModel.from_pretrained(tiny_llama(), folder / "one", adapter_name="one")
        model.load_adapter(folder / "two", adapter_name="two")
        return model

    return load, read_adapters([folder / name for name in NAMES])


def deltas(model: Any, adapter: str) -> dict[str, Any]:
    found = {}
    for path, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A") and adapter in module.lora_A:
            found[path] = module.get_delta_weight(adapter).detach().numpy().astype(np.float64)
    return found


CASES = [
    ("linear", "peft-linear", {}, {}),
    ("cat", "peft-cat", {}, {}),
    ("svd", "peft-svd", {}, {}),
    ("svd", "peft-svd", {"svd_rank": 2}, {"rank": 2}),
    ("ties", "peft-ties", {"density": 0.4}, {"density": 0.4}),
    ("ties_svd", "ties", {"density": 0.3}, {"density": 0.3}),
    ("magnitude_prune", "peft-magnitude", {"density": 0.4}, {"density": 0.4}),
    ("magnitude_prune_svd", "magnitude", {"density": 0.4}, {"density": 0.4}),
    ("dare_linear_svd", "dare-linear", {"density": 0.5}, {"density": 0.5}),
    ("dare_ties_svd", "dare-ties", {"density": 0.5}, {"density": 0.5}),
]


@pytest.mark.parametrize(
    ("theirs", "ours", "their_options", "our_options"),
    CASES,
    ids=[f"{a}-{c}" for a, _, c, _ in CASES],
)
def test_the_same_merged_adapter(
    theirs: str,
    ours: str,
    their_options: dict[str, Any],
    our_options: dict[str, Any],
    both: tuple[Callable[[], Any], list[Adapter]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    load, adapters = both
    if theirs.startswith("dare"):
        # Chance is ours in both: PEFT draws once for each task of a module, in their order.
        turn = iter(range(1000))

        def drawn(chances: Any) -> Any:
            m, n = chances.shape
            numbers = uniform(0, next(turn) % len(NAMES), 0, m, n)
            return torch.from_numpy((numbers < chances.numpy()).astype(np.float32))

        monkeypatch.setattr(torch, "bernoulli", drawn)
    model = load()
    model.add_weighted_adapter(
        list(NAMES), WEIGHTS, "merged", combination_type=theirs, **their_options
    )
    want = deltas(model, "merged")
    made = apply(adapters, ours, weights=WEIGHTS, dtype="float32", **our_options)
    assert set(want) == set(made[0].modules)
    assert len(want) == 4
    for path, delta in want.items():
        b, a = made[0].modules[path].factors()
        assert apart(b.astype(np.float64) @ a, delta) < 1e-4, path


def test_linear_doubles_what_it_should_keep(
    both: tuple[Callable[[], Any], list[Adapter]],
) -> None:
    # The known fault of PEFT's linear, which our copy of it shares and the average has not.
    _, adapters = both
    path = next(iter(adapters[0].modules))
    twin = Adapter(**{**vars(adapters[0]), "name": "twin"})
    b, a = adapters[0].modules[path].factors()
    for method, factor in (("peft-linear", 2.0), ("average", 1.0), ("peft-svd", 1.0)):
        made = apply([adapters[0], twin], method, dtype="float32")[0].modules[path].factors()
        assert apart(made[0] @ made[1], factor * b @ a) < 1e-5


@pytest.mark.parametrize("heads", [1, 2])
def test_peft_loads_what_hydra_made(
    heads: int, both: tuple[Callable[[], Any], list[Adapter]], tmp_path: Path
) -> None:
    from peft import PeftModel

    _, adapters = both
    made = apply(adapters, "hydraopt", heads=heads, rank=3)
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
