"""What other tools wrote comes out as PEFT; what PEFT cannot hold is refused; files stay whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from hydraopt.adapters import Adapter, RawTensor, read_adapter
from hydraopt.bundle import TaskAdapter, file_chunks, open_bundle
from hydraopt.bundle.peft.folder import export_peft, peft_adapter
from hydraopt.errors import ExportError, UsageError
from tests.bundle.bundles import bundle_of
from tests.raising import raises

Arrays = Mapping[str, NDArray[Any]]
RNG = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def save(
    folder: Path,
    arrays: Arrays,
    config: Mapping[str, Any] | None,
    file: str = "adapter_model.safetensors",
    **options: Any,
) -> Adapter:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: RawTensor.from_numpy(key, x) for key, x in arrays.items()}
    (folder / file).write_bytes(b"".join(file_chunks(tensors)))
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return read_adapter(folder, name="task", **options)


def bundled(tmp_path: Path, adapter: Adapter, **options: Any) -> TaskAdapter:
    path = tmp_path / "b.hydra.safetensors"
    bundle_of([adapter], **{"step": 1 << 18, **options}).write(path)
    return open_bundle(path)["task"]


def product(adapter: Adapter, path: str) -> NDArray[Any]:
    b, a = adapter.modules[path].factors()
    return np.asarray(b @ a)


def exported(tmp_path: Path, task: TaskAdapter, **options: Any) -> Adapter:
    export_peft(task, tmp_path / "out", **options)
    return read_adapter(tmp_path / "out")


def plain(**settings: Any) -> dict[str, Any]:
    base = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q"]}
    return {**base, "base_model_name_or_path": "org/tiny", **settings}


def pair(path: str, m: int = 6, n: int = 8, r: int = 2) -> dict[str, NDArray[Any]]:
    key = f"base_model.model.{path}.lora_"
    return {f"{key}A.weight": normal(r, n), f"{key}B.weight": normal(m, r)}


@pytest.mark.parametrize("lossless", [False, True])
def test_mlx(tmp_path: Path, lossless: bool) -> None:
    arrays = {
        "model.layers.0.q_proj.lora_a": normal(8, 2),
        "model.layers.0.q_proj.lora_b": normal(2, 6),
        "model.layers.0.q_proj.m": np.abs(normal(6)),
    }
    config = {
        "fine_tune_type": "dora",
        "model": "org/mlx",
        "lora_parameters": {"rank": 2, "scale": 10.0},
    }
    adapter = save(tmp_path / "mlx", arrays, config, "adapters.safetensors")
    task = bundled(tmp_path, adapter, lossless=lossless)
    found = exported(tmp_path, task)
    assert found.format == "peft"
    assert found.base_model == "org/mlx"
    assert found.config["use_dora"] is True
    assert "hydraopt" not in found.config
    path = "model.layers.0.q_proj"
    np.testing.assert_allclose(product(found, path), product(adapter, path), atol=1e-3)
    magnitude = found.extras[f"base_model.model.{path}.lora_magnitude_vector"]
    np.testing.assert_array_equal(magnitude.numpy(), arrays[f"{path}.m"])
    if lossless:
        assert {k: x.raw() for k, x in task.tensors.items()} == {
            k: x.raw() for k, x in adapter.tensors.items()
        }


@pytest.mark.parametrize("lossless", [False, True])
def test_kohya(tmp_path: Path, lossless: bool) -> None:
    linear, conv = "lora_unet_mid_block_q", "lora_unet_mid_block_conv"
    arrays = {
        f"{linear}.lora_down.weight": normal(2, 8),
        f"{linear}.lora_up.weight": normal(6, 2),
        f"{linear}.alpha": np.array(1.0, np.float32),
        f"{conv}.lora_down.weight": normal(3, 4, 3, 3),
        f"{conv}.lora_up.weight": normal(6, 3, 1, 1),
        f"{conv}.alpha": np.array(2.0, np.float32),
    }
    adapter = save(tmp_path / "kohya", arrays, None, "lora.safetensors")
    found = exported(tmp_path, bundled(tmp_path, adapter, lossless=lossless))
    assert found.config["rank_pattern"] == {linear: 2}
    assert found.modules[conv].a_shape == (3, 4, 3, 3)
    assert found.modules[conv].b_shape == (6, 3, 1, 1)
    for path in (linear, conv):
        np.testing.assert_allclose(product(found, path), product(adapter, path), atol=1e-4)


def test_loralib_alpha_is_kept_in_a_lossless_task(tmp_path: Path) -> None:
    arrays = {"h.0.q.lora_A": normal(2, 8), "h.0.q.lora_B": normal(6, 2)}
    adapter = save(tmp_path / "l", arrays, None, "lora.safetensors", alpha=7.0)
    assert adapter.format == "loralib"
    task = bundled(tmp_path, adapter, lossless=True)
    b, a = adapter.modules["h.0.q"].factors()
    np.testing.assert_array_equal(task.factors()["h.0.q"].B, b)
    np.testing.assert_allclose(product(exported(tmp_path, task), "h.0.q"), b @ a, atol=1e-5)


def test_fused_projection(tmp_path: Path) -> None:
    """Groups of an old MergedLinear become one LoRA over the whole of query_key_value."""
    key = "base_model.model.h.0.query_key_value.lora_"
    arrays = {f"{key}A.weight": normal(4, 8), f"{key}B.weight": normal(12, 2, 1)}
    config = plain(enable_lora=[True, False, True], target_modules=["query_key_value"])
    adapter = save(tmp_path / "fused", arrays, config)
    assert sorted(adapter.modules) == ["h.0.query_key_value::0", "h.0.query_key_value::2"]
    found = exported(tmp_path, bundled(tmp_path, adapter))
    whole = product(found, "h.0.query_key_value")
    assert whole.shape == (18, 8)
    assert found.config["r"] == 4
    assert "enable_lora" not in found.config
    parts = {i: product(adapter, f"h.0.query_key_value::{i}") for i in (0, 2)}
    np.testing.assert_allclose(whole[:6], parts[0], atol=1e-3)
    np.testing.assert_array_equal(whole[6:12], 0)
    np.testing.assert_allclose(whole[12:], parts[2], atol=1e-3)


def test_fused_projection_of_unknown_parts_is_refused(tmp_path: Path) -> None:
    arrays = {"h.0.attn.lora_A": normal(4, 8), "h.0.attn.lora_B": normal(12, 2)}
    adapter = save(tmp_path / "fused", arrays, None, "lora.safetensors")
    task = bundled(tmp_path, adapter)
    with pytest.raises(ExportError):
        export_peft(task, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_odd_names_become_those_of_peft(tmp_path: Path) -> None:
    """No prefix, the adapter's name inside, the mark of torch.compile."""
    arrays = {
        "_orig_mod.h.0.q.lora_A.default.weight": normal(2, 8),
        "_orig_mod.h.0.q.lora_B.default.weight": normal(6, 2),
        "_orig_mod.h.0.q.lora_magnitude_vector.default.weight": np.abs(normal(6)),
        "_orig_mod.head.modules_to_save.default.weight": normal(3, 3),
    }
    adapter = save(tmp_path / "odd", arrays, plain(use_dora=True, modules_to_save=["head"]))
    found = exported(tmp_path, bundled(tmp_path, adapter))
    assert sorted(found.tensors) == [
        "base_model.model.h.0.q.lora_A.weight",
        "base_model.model.h.0.q.lora_B.weight",
        "base_model.model.h.0.q.lora_magnitude_vector",
        "base_model.model.head.weight",
    ]


def test_tensors_without_a_place_are_refused(tmp_path: Path) -> None:
    arrays = {
        "lora_unet_q.lora_down.weight": normal(2, 8),
        "lora_unet_q.lora_up.weight": normal(6, 2),
        "bundle_emb.x.string_to_param.*": normal(3, 3),
    }
    adapter = save(tmp_path / "kohya", arrays, None, "lora.safetensors")
    with raises(ExportError, adapter="task"):
        peft_adapter(bundled(tmp_path, adapter))


def test_kohya_magnitude_over_inputs_is_refused(tmp_path: Path) -> None:
    arrays = {
        "lora_unet_q.lora_down.weight": normal(2, 8),
        "lora_unet_q.lora_up.weight": normal(6, 2),
        "lora_unet_q.dora_scale": np.abs(normal(1, 8)),
    }
    adapter = save(tmp_path / "kohya", arrays, None, "lora.safetensors")
    with pytest.raises(ExportError):
        peft_adapter(bundled(tmp_path, adapter))


def test_numbers_too_large_for_fp16_are_refused(tmp_path: Path) -> None:
    arrays = {key: x * 2.0**20 for key, x in pair("h.0.q").items()}
    task = bundled(tmp_path, save(tmp_path / "large", arrays, plain()))
    with pytest.raises(ExportError):
        export_peft(task, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()
    export_peft(task, tmp_path / "out", dtype="bfloat16")
    with pytest.raises(UsageError):
        export_peft(task, tmp_path / "other", dtype="int4")


def test_targets_that_do_not_match_are_spelt_out(tmp_path: Path) -> None:
    config = plain(target_modules=["v"], layers_to_transform=[3], exclude_modules=["q"])
    adapter = save(tmp_path / "x", {**pair("h.0.q"), **pair("h.1.q")}, config)
    found = exported(tmp_path, bundled(tmp_path, adapter))
    assert found.config["target_modules"] == ["h.0.q", "h.1.q"]
    assert "layers_to_transform" not in found.config
    assert "exclude_modules" not in found.config


def test_pissa_refuses_one_rank(tmp_path: Path) -> None:
    adapter = save(tmp_path / "x", pair("h.0.q"), plain(init_lora_weights="pissa_niter_4"))
    with pytest.raises(ExportError):
        peft_adapter(bundled(tmp_path, adapter), uniform_rank=True)


def test_folders_in_the_way(tmp_path: Path) -> None:
    task = bundled(tmp_path, save(tmp_path / "x", pair("h.0.q"), plain()))
    folder = tmp_path / "mine"
    folder.mkdir()
    export_peft(task, folder)  # an empty one is fine
    export_peft(task, folder, dtype="float16", overwrite=True)
    assert sorted(os.listdir(folder)) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors"
    ]  # fmt: skip
    assert read_adapter(folder).modules["h.0.q"].a.dtype == "F16"
    (tmp_path / "link").symlink_to(tmp_path / "there", target_is_directory=True)
    (tmp_path / "there").mkdir()
    export_peft(task, tmp_path / "link")  # a link to an empty folder fills that folder
    assert (tmp_path / "link").is_symlink()
    assert read_adapter(tmp_path / "there").modules
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        export_peft(task, tmp_path / "file")
    assert not list(tmp_path.glob(".*tmp*"))


def test_files_are_those_of_the_safetensors_package() -> None:
    """In every dtype that numpy has; the package sorts by dtype, then by name."""
    codes = ("?", "u1", "i1", "i2", "u2", "f2", "i4", "u4", "f4", "f8", "i8", "u8")
    arrays = {
        f"{name}{code}": np.arange(6).reshape(2, 3).astype(code)
        for code in codes
        for name in ("b", "a", "ü")
    }
    tensors = {key: RawTensor.from_numpy(key, x) for key, x in arrays.items()}
    ours = b"".join(file_chunks(tensors))
    assert ours == safetensors.numpy.save(arrays, {"format": "pt"})
