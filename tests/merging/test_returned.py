"""What merge accepts without loss comes back bit for bit; what could not is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hydraopt import merge, open_bundle, read_adapter, verify_bundle
from hydraopt.errors import AdapterFormatError, NumericalError
from hydraopt.export import FORMATS, export_task
from tests.raising import raises

EXTRA = {"more.weight": np.arange(6, dtype=np.int64).reshape(2, 3)}


def kohya(folder: Path) -> Path:
    arrays = {
        "lora_unet_x.lora_down.weight": np.ones((2, 8), np.float16),
        "lora_unet_x.lora_up.weight": np.full((6, 2), 0.5, np.float16),
        "lora_unet_x.alpha": np.array(1.0, np.float16),
    }
    save_file(arrays | EXTRA, folder / "x.safetensors")
    return folder / "x.safetensors"


def diffusers(folder: Path) -> Path:
    arrays = {
        "unet.a.b.lora_A.weight": np.ones((2, 8), np.float16),
        "unet.a.b.lora_B.weight": np.full((6, 2), 0.5, np.float16),
    }
    save_file(arrays | EXTRA, folder / "pytorch_lora_weights.safetensors")
    return folder


def mlx(folder: Path) -> Path:
    arrays = {
        "model.layers.0.q_proj.lora_a": np.ones((8, 2), np.float16),
        "model.layers.0.q_proj.lora_b": np.full((2, 6), 0.5, np.float16),
    }
    save_file(arrays | EXTRA, folder / "adapters.safetensors")
    config = {"lora_parameters": {"rank": 2, "scale": 3.0}, "num_layers": 1}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def loralib(folder: Path, **config: Any) -> Path:
    arrays = {"h.c_attn.lora_A": np.ones((4, 8), "f4"), "h.c_attn.lora_B": np.ones((12, 2), "f4")}
    save_file(arrays, folder / "x.safetensors")
    if config:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder / "x.safetensors"


def back(path: Path, tmp_path: Path, form: str, **limit: Any) -> tuple[Any, Any]:
    """(the adapter at ``path``, what comes back of it through a bundle as ``form``)."""
    adapter = read_adapter(path)
    merge([path], tmp_path / "b", **limit)
    assert verify_bundle(tmp_path / "b", [adapter]).ok
    (task,) = open_bundle(tmp_path / "b").values()
    target = tmp_path / f"out{FORMATS[form].suffix}"
    export_task(task, target, format=form)
    return adapter, read_adapter(target)


@pytest.mark.parametrize("make", [kohya, diffusers, mlx])
@pytest.mark.parametrize("limit", [{"lossless": True}, {"error": 0.2}])
def test_further_tensors_of_a_format_come_back(make: Any, limit: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    adapter, found = back(make(tmp_path / "in"), tmp_path, make.__name__, **limit)
    keys = set(adapter.tensors) if "lossless" in limit else set(EXTRA)
    assert keys <= set(found.tensors)
    for key in keys:
        one, other = adapter.tensors[key], found.tensors[key]
        assert (one.dtype, one.shape, one.raw()) == (other.dtype, other.shape, other.raw())


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("limit", [{"lossless": True}, {"error": 0.2}])
def test_eight_bit_floats_come_back(dtype: str, limit: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    folder = tmp_path / "in"
    folder.mkdir()
    values = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    pair = {"A": values, "B": values.T.contiguous()}
    arrays = {
        f"base_model.model.q.lora_{k}.weight": x.to(getattr(torch, dtype)) for k, x in pair.items()
    }
    save_torch(arrays, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    adapter, found = back(folder, tmp_path, "peft", **limit)
    if "lossless" in limit:
        assert {k: x.raw() for k, x in adapter.tensors.items()} == {
            k: x.raw() for k, x in found.tensors.items()
        }
    else:
        assert set(found.modules) == {"q"}


def test_nan_is_not_kept_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = kohya(tmp_path / "in")
    save_file(
        {
            "lora_unet_x.lora_down.weight": np.full((2, 8), np.nan, np.float16),
            "lora_unet_x.lora_up.weight": np.ones((6, 2), np.float16),
        },
        path,
    )
    with raises(
        NumericalError,
        module="lora_unet_x",
        file="x.safetensors",
        got="lora_unet_x.lora_down.weight",
        expected="finite numbers",
    ):
        merge([path], tmp_path / "b", lossless=True)
    assert not (tmp_path / "b").exists()


def test_a_fused_projection_needs_to_say_its_slots(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = loralib(tmp_path / "in")
    with raises(
        AdapterFormatError, adapter="x", module="h.c_attn::0", file="x.safetensors", got="2 groups"
    ):
        merge([path], tmp_path / "b", size="50%")
    loralib(tmp_path / "in", enable_lora=[True, False, True])
    adapter, found = back(path, tmp_path, "peft", error=0.2)
    assert set(adapter.modules) == {"h.c_attn::0", "h.c_attn::2"}
    assert found.modules["h.c_attn"].m == 18
    loralib(tmp_path / "in", enable_lora=[True])
    with raises(
        AdapterFormatError,
        module="h.c_attn",
        file="x.safetensors",
        got="2 groups, enable_lora [True]",
    ):
        read_adapter(path)


def test_a_tensor_that_would_mean_something_else_in_peft(tmp_path: Path) -> None:
    arrays = {"h.q.lora_A": np.ones((2, 8), "f4"), "h.q.lora_B": np.ones((6, 2), "f4")}
    save_file(arrays | {"h.q.lora_B.bias": np.ones(6, np.int64)}, tmp_path / "x.safetensors")
    with raises(AdapterFormatError, adapter="x", file="x.safetensors"):
        merge([tmp_path / "x.safetensors"], tmp_path / "b", lossless=True)


def test_tensors_of_two_formats_are_told_apart(tmp_path: Path) -> None:
    path = kohya(tmp_path)
    arrays = {
        "lora_unet_x.lora_down.weight": np.ones((2, 8), np.float16),
        "lora_unet_x.lora_up.weight": np.ones((6, 2), np.float16),
        "z.lora_embedding_A": np.ones((2, 8), np.float16),
    }
    save_file(arrays, path)
    with raises(AdapterFormatError, file="x.safetensors", got="kohya"):
        read_adapter(path)


def test_an_error_of_rounding_is_none(tmp_path: Path) -> None:
    arrays = {
        "lora_unet_zero.lora_down.weight": np.zeros((4, 3000), np.float16),
        "lora_unet_zero.lora_up.weight": np.ones((12, 4), np.float16),
        "lora_unet_conv.lora_down.weight": np.ones((4, 3, 3, 3), np.float16),
        "lora_unet_conv.lora_up.weight": np.ones((6, 4, 1, 1), np.float16),
    }
    save_file(arrays, tmp_path / "x.safetensors")
    merge([tmp_path / "x.safetensors"], tmp_path / "b", forms=["private"])
    assert verify_bundle(tmp_path / "b", [read_adapter(tmp_path / "x.safetensors")]).ok


def test_a_bias_that_its_scale_takes_out_of_its_dtype_comes_back_wider(tmp_path: Path) -> None:
    stem = "base_model.model.h.q.lora_"
    bias = np.array([60000.0, 1.0, np.nan, np.inf], np.float16)
    arrays = {
        f"{stem}A.weight": np.ones((2, 8), np.float16),
        f"{stem}B.weight": np.ones((4, 2), np.float16),
        f"{stem}B.bias": bias,
    }
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(arrays, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q"]}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_bias": True}))
    _, again = back(folder, tmp_path, "peft", error=0.3)
    returned = again.extras[f"{stem}B.bias"]
    assert returned.dtype == "F32"
    np.testing.assert_array_equal(returned.numpy(), 3 * bias.astype(np.float32))


def test_a_bias_that_leaves_float32_once_scaled_is_refused(tmp_path: Path) -> None:
    stem = "base_model.model.h.q.lora_"
    arrays = {
        f"{stem}A.weight": np.ones((2, 8), np.float32),
        f"{stem}B.weight": np.ones((4, 2), np.float32),
        f"{stem}B.bias": np.full(4, 3e38, np.float32),
    }
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(arrays, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_bias": True}))
    with raises(
        NumericalError,
        adapter="adapter",
        module="base_model.model.h.q.lora_B.bias",
        file="adapter_model.safetensors",
    ):
        merge([folder], tmp_path / "b")


def test_two_names_of_one_tensor_are_refused_unless_both_come_back(tmp_path: Path) -> None:
    stem = "base_model.model.h.q"
    arrays = {
        f"{stem}.lora_A.weight": np.ones((2, 8), np.float32),
        f"{stem}.lora_B.weight": np.ones((4, 2), np.float32),
        f"{stem}.scale": np.ones(4, np.float32),
        "h.q.scale": np.zeros(4, np.float32),
    }
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(arrays, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterFormatError):
        merge([folder], tmp_path / "coded")
    assert not (tmp_path / "coded").exists()
    original, again = back(folder, tmp_path, "peft", lossless=True)
    assert {key: x.raw() for key, x in again.tensors.items()} == {
        key: x.raw() for key, x in original.tensors.items()
    }


def test_settings_that_python_takes_for_equal_stay_apart(tmp_path: Path, make_adapter) -> None:
    """1 and true, 0 and false, 1 and 1.0 are equal in Python and not in JSON."""
    pair = np.ones((6, 2)), np.ones((2, 8))
    values = {"a": 1, "b": True, "c": 1.0}
    folders = [make_adapter(tmp_path / x, {"h.0.q": pair}, own=y) for x, y in values.items()]
    merge(folders, tmp_path / "x", lossless=True)
    bundle = open_bundle(tmp_path / "x")
    for name, value in values.items():
        export_task(bundle[name], tmp_path / "back" / name)
        config = json.loads((tmp_path / "back" / name / "adapter_config.json").read_text())
        assert (config["own"], type(config["own"])) == (value, type(value))
