"""A bundle attached to the three bases of the evidence against what it exports, in PEFT."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hydraopt import attach, merge, open_bundle
from hydraopt.model import load_model
from tests.conftest import write_adapter
from zoo.bases import BaseError, base_folder, find_base

ROOT = Path(__file__).resolve().parents[2]
BASES = ("smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct")
IDS = torch.randint(5, 5000, (2, 24), generator=torch.Generator().manual_seed(0))
MIXED = torch.randint(5, 5000, (24, 24), generator=torch.Generator().manual_seed(1))
"""Rows of a mixed batch, of all tasks by turns. In bfloat16 one row is a draw: of 24 on Gemma a row
was 0.4 to 2.9 times as far from float32 as PEFT's, and all together 1.2 times."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        yield str(base_folder(request.param))
    except BaseError as error:
        pytest.skip(f"the base model is not installed: {find_base(request.param).install_command}")
        raise AssertionError from error


def real_or_made(base: str, folder: Path) -> list[str]:
    """Three adapters of the base: those of the clone, else random ones of rank 8."""
    known = {"smollm2": ROOT / "examples" / "adapters", "gemma": ROOT / "zoo/adapters/gemma3-5x8"}
    for name, place in known.items():
        found = sorted(x.parent for x in place.glob("*/adapter_config.json"))
        if name in Path(base).name and found:
            return [str(x) for x in found[:: len(found) // 3][:3]]
    model, _ = load_model(base)
    rng = np.random.default_rng(0)
    names = [x for x, _ in model.named_modules() if x.endswith(("q_proj", "v_proj", "o_proj"))]
    for task in ("one", "two", "three"):
        pairs = {}
        for name in names:
            layer = model.get_submodule(name)
            a = rng.normal(size=(8, layer.in_features)) / layer.in_features**0.5
            b = rng.normal(size=(layer.out_features, 8)) * 0.05
            pairs[name] = (b.astype(np.float32), a.astype(np.float32))
        write_adapter(folder / task, pairs)
    return [str(folder / task) for task in ("one", "two", "three")]


@torch.inference_mode()
def logits(model: torch.nn.Module, ids: Tensor = IDS) -> Tensor:
    return model(ids).logits.float()


def far(got: Tensor, right: Tensor) -> float:
    """The root of the mean square of the difference, relative to that of the logits."""
    return float((got - right).norm() / right.norm())


def test_logits_are_those_of_the_exported_adapter_in_peft(base, tmp_path) -> None:
    from peft import PeftModel

    path = tmp_path / "all.hydra.safetensors"
    merge(real_or_made(base, tmp_path), path, size="10%")
    bundle = open_bundle(path)
    exact: dict[str, Tensor] = {}
    exact_mixed: dict[str, Tensor] = {}
    turns = [name for _, name in zip(MIXED, itertools.cycle(bundle), strict=False)]
    for dtype in ("float32", "bfloat16"):
        model, _ = load_model(base, dtype)
        alone = logits(model)
        with attach(model, path) as attached:
            ours = {}
            for name in bundle:
                attached.set_task(name)
                ours[name] = logits(model)
            attached.set_tasks(turns)
            mixed = logits(model, MIXED)
        assert torch.equal(logits(model), alone)
        for turn, (name, task) in enumerate(bundle.items()):
            folder = tmp_path / dtype / name
            task.save_pretrained(folder, dtype="float32")
            # PEFT would hold the factors in float32; the base's type is what both have here.
            wrapped = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False)
            wrapped.to(getattr(torch, dtype))
            theirs = logits(wrapped)
            theirs_mixed = logits(wrapped, MIXED[turn :: len(bundle)])
            wrapped.unload()
            ours_mixed = mixed[turn :: len(bundle)]
            if dtype == "float32":
                exact[name], exact_mixed[name] = theirs, theirs_mixed
                assert far(ours[name], theirs) < 1e-5
                for got, right in zip(ours_mixed, theirs_mixed, strict=True):
                    assert far(got, right) < 1e-5
                assert far(alone, theirs) > 0.01, "the task does nothing"
            else:
                # Both round at every step; twice PEFT's distance to float32 would be a fault.
                assert far(ours[name], exact[name]) < 2 * far(theirs, exact[name])
                limit = 2 * far(theirs_mixed, exact_mixed[name])
                assert far(ours_mixed, exact_mixed[name]) < limit
