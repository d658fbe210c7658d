"""What is exported in another tool's format and read again is the task, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hydraopt.adapters import Adapter, LowRankModule, RawTensor, read_adapter
from hydraopt.bundle import TaskAdapter, file_chunks, holds, rounded
from hydraopt.export import FORMATS, export_task
from tests.export.targets import bundled, pairs, small_task
from tests.export.test_export_formats import normal, save
from tests.marks import slow

FOREIGN = ("mlx", "kohya", "diffusers")
EVERY = pytest.mark.parametrize("form", FOREIGN)


def again(task: TaskAdapter, form: str, folder: Path, **options: Any) -> Adapter:
    target = folder / f"out-{form}{FORMATS[form].suffix}"
    export_task(task, target, format=form, **options)
    found = read_adapter(target)
    assert found.format == form
    return found


def bits(module: LowRankModule, rank: int) -> tuple[bytes, bytes]:
    """The bytes of B and A at that rank; what is beyond it is zero."""
    b, a = module.factors()
    assert not b[:, rank:].any()
    assert not a[rank:].any()
    return b[:, :rank].tobytes(), a[:rank].tobytes()


def names(paths: Mapping[str, Any], form: str) -> dict[str, str]:
    kohya = form == "kohya"
    return {path: "lora_" + path.replace(".", "_") if kohya else path for path in paths}


def same(original: Adapter, found: Adapter, form: str) -> None:
    named = names(original.modules, form)
    assert set(named.values()) == set(found.modules)
    for path, module in original.modules.items():
        assert bits(found.modules[named[path]], module.r) == bits(module, module.r), path


@EVERY
@pytest.mark.parametrize("dtype", ["F16", slow("BF16"), slow("F32")])
@pytest.mark.parametrize(
    "scales",
    [
        {"lora_alpha": 5},
        {"lora_alpha": 5, "use_rslora": True},
        {"lora_alpha": 4, "rank_pattern": {}},
        {"lora_alpha": 5, "rank_pattern": {}, "use_rslora": True},
        {"lora_alpha": 0},
        {"lora_alpha": -3, "alpha_pattern": {"self_attn.k_proj": 0.7, "down_proj": 1e-3}},
    ],
    ids=["alpha", "rslora", "one rank", "one rank, rslora", "zero", "patterns"],
)
def test_a_lossless_task_keeps_every_bit(
    form: str, dtype: str, scales: dict[str, Any], tmp_path: Path
) -> None:
    modules = pairs(form=form)
    if scales.get("rank_pattern") == {}:
        modules = {path: (b[:, :2], a[:2]) for path, (b, a) in modules.items()}
    ranks = {path: len(a) for path, (_, a) in modules.items()}
    tensors = {}
    for path, (b, a) in modules.items():
        for side, values in (("A", a), ("B", b)):
            key = f"base_model.model.{path}.lora_{side}.weight"
            tensors[key] = rounded(key, values, dtype, "x")
    config = {"peft_type": "LORA", "r": 2, "rank_pattern": ranks, **scales}
    original = save_raw(tmp_path / "numbers", tensors, config)
    task = bundled(tmp_path, tmp_path / "numbers", lossless=True)["numbers"]
    same(original, again(task, form, tmp_path), form)


def save_raw(folder: Path, tensors: Mapping[str, RawTensor], config: dict[str, Any]) -> Adapter:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"".join(file_chunks(tensors)))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return read_adapter(folder)


@pytest.mark.parametrize("form", ["mlx", "diffusers"])
@pytest.mark.parametrize("dtype", ["same", "float16", "bfloat16"])
def test_a_coded_task_has_the_numbers_of_its_peft_folder(
    form: str, dtype: str, tmp_path: Path
) -> None:
    task = small_task(tmp_path, form=form)
    same(again(task, "peft", tmp_path, dtype=dtype), again(task, form, tmp_path, dtype=dtype), form)


@pytest.mark.parametrize("dtype", ["same", "float16"])
def test_a_coded_kohya_task_is_rounded_once_more_at_most(dtype: str, tmp_path: Path) -> None:
    task = small_task(tmp_path, form="kohya")
    peft, kohya = (again(task, x, tmp_path, dtype=dtype) for x in ("peft", "kohya"))
    alphas = {float(x.numpy()) for key, x in kohya.tensors.items() if key.endswith(".alpha")}
    assert alphas == {9.0}  # diffusers reads several alphas wrongly
    unit = 2.0**-10 if dtype == "float16" else 2.0**-22
    for path, name in names(peft.modules, "kohya").items():
        (b, a), (b2, a2) = peft.modules[path].factors(), kohya.modules[name].factors()
        np.testing.assert_array_equal(a, a2)
        np.testing.assert_allclose(b, b2, rtol=unit)


def all_that_a_file_may_hold(
    form: str,
) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, Any] | None, dict[str, Any]]:
    """Tensors, config and options to save a file of the format with more than factors."""
    config = None
    options: dict[str, Any] = {}
    if form == "mlx":
        stem, other = "model.layers.3.self_attn.q_proj", "model.embed_tokens"
        arrays = {f"{stem}.lora_a": normal(8, 2), f"{stem}.lora_b": normal(2, 6)}
        arrays |= {f"{other}.lora_a": normal(9, 2), f"{other}.lora_b": normal(2, 8)}
        parameters = {"rank": 2, "scale": 10.1, "keys": ["self_attn.q_proj"], "dropout": 0.0}
        config = {"num_layers": 5, "lora_parameters": parameters, "model": "org/x"}
    elif form == "kohya":
        stem, other = "lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_unet_out_2"
        arrays = {f"{stem}.lora_down.weight": normal(2, 8), f"{stem}.lora_up.weight": normal(6, 2)}
        arrays |= {
            f"{other}.lora_down.weight": normal(3, 4, 3, 3),
            f"{other}.lora_up.weight": normal(6, 3, 1, 1),
            f"{stem}.alpha": np.array(0.7, np.float16),
            f"{other}.dora_scale": normal(6, 1),
            "lora_unet_gone.diff_b": normal(4),
        }
        options = {"metadata": {"ss_tag": "x", "sshs_model_hash": "0", "ss_sd_model_name": "org/x"}}
    else:
        stem, other = "text_encoder_2.text_model.encoder.layers.0.mlp.fc1", "unet.conv_in"
        arrays = {f"{stem}.lora_A.weight": normal(2, 8), f"{stem}.lora_B.weight": normal(6, 2)}
        arrays |= {
            f"{other}.lora_A.weight": normal(3, 4, 3, 3),
            f"{other}.lora_B.weight": normal(6, 3, 1, 1),
            f"{other}.lora_magnitude_vector": normal(6, 1),
        }
        settings = {
            f"{component}.{key}": value
            for component in ("unet", "text_encoder_2")
            for key, value in (("r", 2), ("lora_alpha", 7), ("rank_pattern", {"conv_in": 3}))
        }
        options = {"metadata": {"lora_adapter_metadata": json.dumps(settings), "who": "me"}}
    return arrays, config, options


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("form", FOREIGN)
def test_names_and_all_else_of_the_own_format_come_back(
    form: str, lossless: bool, tmp_path: Path
) -> None:
    """A file of the format, with what it may hold beside the factors, through a bundle."""
    arrays, config, options = all_that_a_file_may_hold(form)
    adapter = save_with(tmp_path / "a", arrays, config, form, **options)
    task = bundled(tmp_path, adapter.source, lossless=lossless)["a"]
    found = again(task, form, tmp_path)
    assert set(found.modules) == set(adapter.modules)
    assert {k: x.raw() for k, x in found.extras.items()} == {
        k: x.raw() for k, x in adapter.extras.items()
    }
    assert found.extra_kinds == adapter.extra_kinds
    assert found.base_model == adapter.base_model
    for path, module in adapter.modules.items():
        new = found.modules[path]
        assert (new.kind, new.m, new.n) == (module.kind, module.m, module.n)
        if lossless:
            assert bits(new, module.r) == bits(module, module.r), path
            assert len(new.a_shape) == len(module.a_shape)
        else:
            dense = np.matmul(*module.factors())
            np.testing.assert_allclose(np.matmul(*new.factors()), dense, atol=1e-3)
    origin, kept = adapter.config["hydraopt"], found.config["hydraopt"]
    if form == "mlx":
        assert kept["config"]["num_layers"] == 5
        assert kept["config"]["fine_tune_type"] == "lora"
    else:
        assert "sshs_model_hash" not in kept["metadata"]
        changed = ("sshs_", "ss_network_", "lora_adapter_metadata")
        for key, value in origin["metadata"].items():
            assert key.startswith(changed) or kept["metadata"][key] == value


def save_with(
    folder: Path, arrays: Mapping[str, NDArray[Any]], config: Any, form: str, **options: Any
) -> Adapter:
    if form == "mlx":
        return save(folder, arrays, config, "adapters.safetensors")
    folder.mkdir()
    save_file(dict(arrays), folder / "a.safetensors", **options)
    return read_adapter(folder / "a.safetensors")


@given(
    values=st.lists(st.floats(width=64, allow_nan=False, allow_infinity=False), max_size=8),
    dtype=st.sampled_from(["F16", "BF16", "F32", "F64"]),
)
def test_holds_says_whether_rounding_changes_nothing(values: list[float], dtype: str) -> None:
    array = np.array(values)
    if holds(array, dtype):
        tensor = rounded("x", array, dtype, "t")
        expected = array if dtype == "F64" else array.astype(np.float32)
        if dtype != "F64":
            np.testing.assert_array_equal(tensor.numpy(), expected)
        np.testing.assert_array_equal(expected, array)
    else:
        assert dtype != "F64"
