"""kohya files and diffusers folders: names, settings, and what neither can say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from hydraopt import merge, open_bundle
from hydraopt.adapters import ScaleRule, read_adapter
from hydraopt.bundle import TaskAdapter
from hydraopt.errors import ExportError
from hydraopt.export import export_diffusers, export_kohya, export_task
from tests.conftest import write_adapter
from tests.export.targets import bundled, pairs, small_task
from tests.raising import raises

BLOCK = "down_blocks.0.attentions.0.transformer_blocks"
FLAT = BLOCK.replace(".", "_")


def header(file: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    with safe_open(file, "np") as opened:
        shapes = {key: opened.get_tensor(key).shape for key in opened.keys()}  # noqa: SIM118
        return opened.metadata(), shapes


def ones(*paths: str, rank: int = 2, **options: Any) -> Mapping[str, Any]:
    return {path: (np.ones((6, rank)), np.ones((rank, 8))) for path in paths}


def task_of(folder: Path, modules: Any, **options: Any) -> TaskAdapter:
    return bundled(folder, write_adapter(folder / "style", modules, **options))["style"]


def kohya_names(task: TaskAdapter, folder: Path) -> set[str]:
    export_kohya(task, folder / "k.safetensors")
    return set(read_adapter(folder / "k.safetensors").modules)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"{BLOCK}.0.attn1.to_out.0", f"lora_unet_{FLAT}_0_attn1_to_out_0"),
        (f"unet.{BLOCK}.0.attn1.to_q", f"lora_unet_{FLAT}_0_attn1_to_q"),
        (
            "text_encoder.text_model.encoder.layers.0.mlp.fc1",
            "lora_te_text_model_encoder_layers_0_mlp_fc1",
        ),
        ("text_encoder.encoder.layers.0.mlp.fc1", "lora_te_text_model_encoder_layers_0_mlp_fc1"),
    ],
)
def test_kohya_names_of_paths_with_dots(path: str, name: str, tmp_path: Path) -> None:
    assert kohya_names(task_of(tmp_path, ones(path)), tmp_path) == {name}


@pytest.mark.parametrize("sign", [f"unet.{BLOCK}.1.attn1.to_q", "text_encoder_2.encoder.x"])
def test_sdxl_numbers_its_text_encoders(sign: str, tmp_path: Path) -> None:
    task = task_of(tmp_path, ones(sign, "text_encoder.encoder.x"))
    names = kohya_names(task, tmp_path)
    assert "lora_te1_text_model_encoder_x" in names
    assert any(name.startswith(("lora_te2_", "lora_unet_")) for name in names)


def test_kohya_states_rank_and_alpha(tmp_path: Path) -> None:
    """ss_network_dim and ss_network_alpha, and an alpha for each module, all alike."""
    export_kohya(small_task(tmp_path, form="kohya"), tmp_path / "mixed.safetensors")
    metadata, shapes = header(tmp_path / "mixed.safetensors")
    assert metadata["ss_network_dim"] == "Dynamic"
    assert metadata["ss_network_alpha"] == "9.0"
    assert metadata["ss_sd_model_name"] == "org/tiny"
    stems = {key.rpartition(".")[0] for key in shapes if key.endswith(".alpha")}
    assert {key.partition(".")[0] for key in shapes} == stems
    assert all(shapes[f"{stem}.alpha"] == () for stem in stems)
    one = task_of(tmp_path / "one", ones(f"unet.{BLOCK}.0.attn1.to_q", rank=2))
    export_kohya(one, tmp_path / "one.safetensors")
    metadata, _ = header(tmp_path / "one.safetensors")
    assert int(metadata["ss_network_dim"]) == float(metadata["ss_network_alpha"])


def test_diffusers_settings_are_those_of_the_tensors(tmp_path: Path) -> None:
    """lora_adapter_metadata: PEFT's settings under the component's name; no tensor named alpha,
    for which load_lora_weights refuses a file."""
    text = ones("text_encoder.text_model.encoder.layers.0.mlp.fc1", rank=3)
    task = task_of(tmp_path, {**pairs(form="diffusers"), **text}, alpha=5)
    export_diffusers(task, tmp_path / "out")
    metadata, shapes = header(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    assert all("lora" in key for key in shapes)
    settings = json.loads(metadata["lora_adapter_metadata"])
    for component in ("unet", "text_encoder"):
        own = {k.partition(".")[2]: v for k, v in settings.items() if k.startswith(f"{component}.")}
        rule = ScaleRule.from_config(own, tmp_path)
        for key, shape in shapes.items():
            if key.startswith(f"{component}.") and key.endswith("lora_A.weight"):
                path = key.removeprefix(f"{component}.").removesuffix(".lora_A.weight")
                assert (rule.rank(path), rule.scale(path)) == (shape[0], 1.0)
                # With transformers 5 a text encoder has lost its level "text_model".
                later = path.removeprefix("text_model.")
                assert later in own["target_modules"]
                assert rule.rank(later) == shape[0]


def test_uniform_rank(tmp_path: Path) -> None:
    """Versions of diffusers before 0.34 take the first rank as every module's alpha."""
    task = small_task(tmp_path, form="diffusers")
    export_task(task, tmp_path / "out", format="diffusers", uniform_rank=True)
    metadata, shapes = header(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    assert {x[0] for key, x in shapes.items() if "lora_A" in key} == {9}
    assert json.loads(metadata["lora_adapter_metadata"])["unet.rank_pattern"] == {}


@pytest.mark.parametrize("export", [export_kohya, export_diffusers])
@pytest.mark.parametrize(
    "path",
    ["model.layers.0.self_attn.q_proj", "transformer.h.0.attn.c_attn", "text_model.x.q_proj"],
)
def test_a_language_models_adapter_is_refused(path: str, export: Any, tmp_path: Path) -> None:
    task = task_of(tmp_path, ones(path))
    with raises(ExportError, adapter="style"):
        export(task, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_become_one_are_refused(tmp_path: Path) -> None:
    task = task_of(tmp_path, ones("unet.mid_block.a.b", "unet.mid_block.a_b"))
    with raises(
        ExportError, adapter="style", module="unet.mid_block.a.b", got="lora_unet_mid_block_a_b"
    ):
        export_kohya(task, tmp_path / "out.safetensors")
    export_diffusers(task, tmp_path / "out")
    both = task_of(tmp_path / "2", ones("unet.mid_block.a", "mid_block.a"))
    with pytest.raises(ExportError):
        export_diffusers(both, tmp_path / "out2")
    assert not (tmp_path / "out2").exists()
    assert not list(tmp_path.glob("out*.safetensors"))


def test_a_name_that_the_reader_would_change_is_refused(tmp_path: Path) -> None:
    task = task_of(tmp_path, ones("unet.mid_block.attn.processor.to_q"))
    with pytest.raises(ExportError):
        export_diffusers(task, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_kohya_has_no_names_for_transformers(tmp_path: Path) -> None:
    task = task_of(tmp_path, ones("transformer_blocks.0.attn.to_q", "x_embedder"))
    with raises(ExportError, adapter="style", module="transformer_blocks.0.attn.to_q"):
        export_kohya(task, tmp_path / "out.safetensors")
    export_diffusers(task, tmp_path / "out")
    assert set(read_adapter(tmp_path / "out").modules) == {
        "transformer.transformer_blocks.0.attn.to_q",
        "transformer.x_embedder",
    }


def image_task(folder: Path, arrays: Mapping[str, Any]) -> TaskAdapter:
    folder.mkdir()
    save_file(dict(arrays), folder / "style.safetensors")
    return bundled(folder, folder / "style.safetensors")["style"]


def test_dots_of_kohya_names_are_gone(tmp_path: Path) -> None:
    one = np.ones((2, 8), np.float32)
    arrays = {"lora_unet_a.lora_down.weight": one, "lora_unet_a.lora_up.weight": one.T.copy()}
    task = image_task(tmp_path / "k", arrays)
    with raises(ExportError, adapter="style", module="lora_unet_a"):
        export_diffusers(task, tmp_path / "out")


def test_numbered_modules_go_back_only_as_they_were(tmp_path: Path) -> None:
    """Files of the first tool for such LoRAs, which no newer tool reads."""
    one = np.ones((2, 8), np.float32)
    file = tmp_path / "style.safetensors"
    save_file({"unet:0:down": one, "unet:0:up": one.T.copy()}, file)
    task = bundled(tmp_path, file)["style"]
    for export in (export_kohya, export_diffusers):
        with raises(ExportError, adapter="style", module="unet:0"):
            export(task, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_task(task, tmp_path / "peft")
    assert set(read_adapter(tmp_path / "peft").modules) == {"unet:0"}
    export_diffusers(bundled(tmp_path, file, lossless=True)["style"], tmp_path / "out")
    assert set(read_adapter(tmp_path / "out").modules) == {"unet:0"}


def test_other_tensors_go_only_to_their_own_format(tmp_path: Path) -> None:
    one = np.ones((2, 8), np.float32)
    stem = f"unet.{BLOCK}.0.attn1.to_q"
    arrays = {
        f"{stem}.lora_A.weight": one,
        f"{stem}.lora_B.weight": one.T.copy(),
        f"{stem}.lora_magnitude_vector": np.ones(8, np.float32),
    }
    task = image_task(tmp_path / "d", arrays)
    export_diffusers(task, tmp_path / "out")
    assert list(read_adapter(tmp_path / "out").extras) == [f"{stem}.lora_magnitude_vector"]
    with raises(
        ExportError,
        adapter="style",
        module="unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_magnitude_vector",
    ):
        export_kohya(task, tmp_path / "out.safetensors")
    arrays[f"{stem}.lora_B.bias"] = np.ones(8, np.float32)
    arrays[f"{stem}.alpha"] = np.array(6.0, np.float32)
    biased = image_task(tmp_path / "b", arrays)
    export_diffusers(biased, tmp_path / "out2")
    back = read_adapter(tmp_path / "out2")
    assert back.extra_kinds[f"{stem}.lora_B.bias"] == "lora_bias"
    # The scale, 6 / 2, is inside B, so it is inside the bias of B.
    np.testing.assert_array_equal(back.extras[f"{stem}.lora_B.bias"].numpy(), np.full(8, 3.0))
    with raises(
        ExportError,
        adapter="style",
        module="unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.bias",
    ):
        export_kohya(biased, tmp_path / "out.safetensors")


def test_a_file_without_modules_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    kept = {"unet.emb.weight": np.ones((4, 4), np.float32)}
    file = folder / "style.safetensors"
    save_file(kept, file, metadata={"format": "pt", "lora_adapter_metadata": "{}"})
    merge([file], tmp_path / "b")
    task = open_bundle(tmp_path / "b")["style"]
    assert task.entry.format == "diffusers"
    export_diffusers(task, tmp_path / "out")
    back = read_adapter(tmp_path / "out").extras
    assert back.keys() == kept.keys()
    np.testing.assert_allclose(back["unet.emb.weight"].numpy(), kept["unet.emb.weight"], rtol=0.03)
