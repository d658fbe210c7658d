"""Exports and the resolver in vLLM's own loading code. Needs vllm, but no GPU."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hydraopt.bundle import TaskAdapter
from hydraopt.export import export_vllm, vllm_plugin
from tests.conftest import write_adapter
from tests.export.targets import SHAPES, bundled, pairs, products, small_task

with warnings.catch_warnings():
    # What vLLM and the packages that it imports deprecate is not ours.
    warnings.simplefilter("ignore")
    vllm = pytest.importorskip("vllm", reason="vllm is not installed; it is no dependency of ours")
    from vllm.config.lora import LoRAConfig
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolverRegistry
    from vllm.plugins import load_general_plugins

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel is built for a GPU and pins the memory that it copies from; there may be none."""
    monkeypatch.setattr("vllm.lora.lora_model.PIN_MEMORY", torch.cuda.is_available())


def loaded(folder: Path, max_rank: int = 16) -> Any:
    """The folder as vLLM's workers read it: config, its rules, then the tensors."""
    helper = PEFTHelper.from_local_dir(str(folder), max_position_embeddings=None)
    helper.validate_legal(LoRAConfig(max_lora_rank=max_rank, lora_dtype="auto"))
    return LoRAModel.from_local_checkpoint(
        str(folder),
        {name.rpartition(".")[2] for name in SHAPES},
        peft_helper=helper,
        lora_model_id=1,
        device="cpu",
        dtype=torch.float32,
    )


def deltas(model: Any) -> dict[str, NDArray[Any]]:
    """What vLLM adds to each weight, its scale inside, m x n."""
    found = {}
    for path, weights in model.loras.items():
        weights.optimize()  # puts the scale into lora_b, as vLLM does when it activates an adapter
        found[path] = (weights.lora_b @ weights.lora_a).numpy()
    return found


def check(model: Any, task: TaskAdapter) -> None:
    expected = products(task)
    found = deltas(model)
    assert set(found) == set(expected)
    for path, delta in found.items():
        np.testing.assert_allclose(delta, expected[path], atol=1e-5, err_msg=path)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}])
def test_it_loads_with_the_same_products(options: dict[str, Any], tmp_path: Path) -> None:
    task = small_task(tmp_path, **options)
    export_vllm(task, tmp_path / "out", dtype="float32")
    check(loaded(tmp_path / "out"), task)


def test_the_resolver_serves_tasks_through_its_registry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """vLLM finds the entry point, asks for a task by name, and loads what it is given."""
    made = [write_adapter(tmp_path / name, pairs(i)) for i, name in enumerate(("de", "fr"))]
    bundle = bundled(tmp_path, *made)
    monkeypatch.setenv("HYDRAOPT_BUNDLE", str(bundle.path))
    monkeypatch.setenv("HYDRAOPT_VLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(LoRAResolverRegistry, "resolvers", {})
    monkeypatch.setattr("vllm.plugins.plugins_loaded", False)
    load_general_plugins()
    resolver = LoRAResolverRegistry.get_resolver(vllm_plugin.NAME)
    for name in ("de", "fr"):
        request = asyncio.run(resolver.resolve_lora("org/tiny", name))
        assert isinstance(request, LoRARequest)
        assert request.lora_name == name
        check(loaded(Path(request.lora_path)), bundle[name])
    assert asyncio.run(resolver.resolve_lora("org/tiny", "es")) is None
