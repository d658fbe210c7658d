"""Adapter folders for vLLM and LoRAX, held against the rules of their loaders one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hydraopt import merge
from hydraopt.cli.main import cli
from hydraopt.errors import ExportError
from hydraopt.export import export_vllm
from hydraopt.export.vllm import RANKS
from tests.conftest import write_adapter
from tests.export.targets import SHAPES, bundled, pairs, products, small_task, stacked_experts
from tests.raising import raises


def exported(tmp_path: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    task = small_task(tmp_path, **options)
    export_vllm(task, tmp_path / "out", dtype="float32")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "np") as file:
        return config, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def test_features_it_rejects_are_off(tmp_path: Path) -> None:
    """PEFTHelper._validate_features and validate_legal, in their newest and older versions."""
    config, _ = exported(tmp_path, use_rslora=True)
    for setting in (
        "modules_to_save", "use_dora", "lora_bias", "alora_invocation_tokens",
        "layer_replication", "use_bdlora", "use_qalora", "trainable_token_indices", "use_rslora",
    ):  # fmt: skip
        assert not config.get(setting), setting
    assert config["bias"] == "none"
    assert config["init_lora_weights"] is True


def test_one_rank_and_scale_for_all(tmp_path: Path) -> None:
    """Versions that ignore rank_pattern and alpha_pattern take r and alpha / r for every module;
    so does LoRAX."""
    config, tensors = exported(tmp_path)
    assert not config.get("rank_pattern")
    assert not config.get("alpha_pattern")
    assert config["lora_alpha"] / config["r"] == 1
    ranks = {x.shape[0] if "lora_A" in key else x.shape[1] for key, x in tensors.items()}
    assert ranks == {config["r"]}


@pytest.mark.parametrize(("rank", "padded"), [(1, 8), (8, 8), (9, 16), (33, 64), (257, 320)])
def test_rank_is_one_of_those_for_max_lora_rank(rank: int, padded: int, tmp_path: Path) -> None:
    """LoRAConfig.max_lora_rank is one of a few; a rank above it is rejected."""
    rng = np.random.default_rng(0)
    pair = (rng.standard_normal((400, rank)), rng.standard_normal((rank, 400)))
    made = write_adapter(tmp_path / "a", {"model.layers.0.self_attn.q_proj": pair})
    export_vllm(bundled(tmp_path, made, step=4096)["a"], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == padded
    assert padded in RANKS


@pytest.fixture
def few_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader of ranks that small adapters exceed."""
    monkeypatch.setattr("hydraopt.export.vllm.RANKS", (8, 16))


def test_rank_above_all_is_refused(few_ranks: None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pair = (rng.standard_normal((40, 24)), rng.standard_normal((24, 40)))
    made = write_adapter(tmp_path / "a", {"model.layers.0.self_attn.q_proj": pair})
    task = bundled(tmp_path, made, lossless=True)["a"]
    with raises(ExportError, adapter="a", module="model.layers.0.self_attn.q_proj"):
        export_vllm(task, tmp_path / "out")


def test_names_are_those_it_parses(tmp_path: Path) -> None:
    """parse_fine_tuned_lora_name: base_model.model.MODULE.lora_A.weight and nothing else."""
    config, tensors = exported(tmp_path)
    expected = {
        f"base_model.model.model.layers.{i}.{name}.lora_{side}.weight"
        for i in range(2)
        for name in SHAPES
        for side in "AB"
    }
    assert set(tensors) == expected
    # from_local_checkpoint compares the last part of each name with the model's own modules.
    assert config["target_modules"] == ["down_proj", "k_proj", "q_proj"]


def test_targets_are_whole_paths_where_names_do_not_tell(tmp_path: Path) -> None:
    """PEFT, from which LoRAX takes its config, must not wrap what the task leaves alone."""
    every = pairs()
    some = {path: x for path, x in every.items() if "layers.0" in path}
    made = [write_adapter(tmp_path / name, x) for name, x in (("all", every), ("some", some))]
    export_vllm(bundled(tmp_path, *made)["some"], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(some)


@pytest.mark.parametrize("swapped", [False, True])
def test_stacked_experts_are_those_that_it_stacks(swapped: bool, tmp_path: Path) -> None:
    """LoRAModelManager._stack_moe_lora_weights: base_layer is gate_up_proj, the other down_proj."""
    task = bundled(tmp_path, stacked_experts(tmp_path / "moe", swapped))["moe"]
    export_vllm(task, tmp_path / "out", dtype="float32")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    dense = products(task)
    path = "model.layers.0.mlp.experts"
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "np") as file:
        for name, shape in ((f"{path}.base_layer", (12, 8)), (path, (8, 6))):
            a = file.get_tensor(f"base_model.model.{name}.lora_A.weight")
            b = file.get_tensor(f"base_model.model.{name}.lora_B.weight")
            a = a.reshape(3, config["r"], a.shape[-1])
            b = b.reshape(b.shape[0], config["r"], 3).transpose(2, 0, 1)
            for expert in range(3):
                expected = dense[f"{name}::{expert}"]
                assert (b[expert] @ a[expert]).shape == shape
                np.testing.assert_allclose(
                    b[expert] @ a[expert], expected.T if swapped else expected, atol=1e-4
                )


def test_one_projection_of_stacked_experts_is_refused(tmp_path: Path) -> None:
    folder = stacked_experts(tmp_path / "moe")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {key: x for key, x in tensors.items() if "base_layer" in key},
        folder / "adapter_model.safetensors",
    )
    with raises(ExportError, adapter="moe", module="model.layers.0.mlp.experts"):
        export_vllm(bundled(tmp_path, folder)["moe"], tmp_path / "out")


@pytest.mark.parametrize("path", ["model.embed_tokens", "conv"])
def test_what_is_not_linear_is_refused(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    if path == "conv":
        b, a = np.ones((4, 2, 1, 1)), np.ones((2, 3, 3, 3))
        made = write_adapter(folder, {path: (b, a)})
    else:
        keys = {f"base_model.model.{path}.lora_embedding_{x}": s for x, s in zip(
            "AB", (np.ones((2, 7), np.float32), np.ones((5, 2), np.float32)), strict=True
        )}  # fmt: skip
        made = write_adapter(folder, {}, extras=keys, r=2, lora_alpha=2)
    with raises(ExportError, adapter="a"):
        export_vllm(bundled(tmp_path, made)["a"], tmp_path / "out")


def test_a_task_that_is_refused_leaves_the_other_tasks(few_ranks: None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = "model.layers.0.self_attn.q_proj"
    folders = [
        write_adapter(
            tmp_path / name, {path: (rng.standard_normal((40, r)), rng.standard_normal((r, 40)))}
        )
        for name, r in (("a", 4), ("b", 24), ("c", 4))
    ]
    bundle, out = tmp_path / "x.hydra.safetensors", tmp_path / "out"
    merge(folders, bundle, lossless=True)
    how = ["export", str(bundle), "--all", "-o", str(out), "--format", "vllm"]
    assert CliRunner().invoke(cli, how).exit_code != 0
    assert {x.name for x in out.iterdir()} == {"a", "c"}
    assert (out / "a" / "adapter_config.json").is_file()
