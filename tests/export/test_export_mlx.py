"""MLX adapter folders, held against the rules of the loaders of mlx-lm and mlx-swift-lm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hydraopt.adapters import read_adapter
from hydraopt.bundle.peft.folder import export_peft
from hydraopt.errors import ExportError, UsageError
from hydraopt.export import export_mlx
from tests.conftest import write_adapter
from tests.export.targets import SHAPES, bundled, pairs, products, small_task
from tests.raising import raises

Made = tuple[dict[str, Any], dict[str, NDArray[Any]]]
Q = "model.layers.0.self_attn.q_proj"


def exported(task: Any, folder: Path, **options: Any) -> Made:
    export_mlx(task, folder, **options)
    config = json.loads((folder / "adapter_config.json").read_text())
    return config, load_file(folder / "adapters.safetensors")


def changed(folder: Path, modules: Any = None, **options: Any) -> Any:
    return bundled(folder, write_adapter(folder / "numbers", modules or pairs(), **options))[
        "numbers"
    ]


def test_settings_that_the_loader_reads_without_a_default(tmp_path: Path) -> None:
    """load_adapters: num_layers; linear_to_lora_layers: rank, scale, dropout, keys."""
    config, _ = exported(small_task(tmp_path), tmp_path / "out")
    assert config["fine_tune_type"] == "lora"
    assert config["num_layers"] == -1
    parameters = config["lora_parameters"]
    assert set(parameters) == {"rank", "scale", "dropout", "keys"}
    assert (type(parameters["rank"]), type(parameters["scale"])) == (int, float)
    assert parameters["dropout"] == 0.0


def test_one_rank_and_transposed(tmp_path: Path) -> None:
    """LoRALinear: lora_a (input_dims, r), lora_b (r, output_dims), r of the config."""
    config, tensors = exported(small_task(tmp_path), tmp_path / "out")
    rank = config["lora_parameters"]["rank"]
    for i in range(2):
        for name, (m, n) in SHAPES.items():
            assert tensors.pop(f"model.layers.{i}.{name}.lora_a").shape == (n, rank)
            assert tensors.pop(f"model.layers.{i}.{name}.lora_b").shape == (rank, m)
    assert not tensors


def test_keys_are_names_inside_a_layer_and_whole_ones_outside(tmp_path: Path) -> None:
    modules = {**pairs(), "lm_head": (np.ones((97, 2)), np.ones((2, 32)))}
    config, _ = exported(changed(tmp_path, modules), tmp_path / "out")
    assert config["lora_parameters"]["keys"] == sorted([*SHAPES, "lm_head"])


def test_a_common_scale_stays_in_the_config(tmp_path: Path) -> None:
    modules = {Q: pairs()[Q]}
    made = write_adapter(tmp_path / "x", modules, alpha=0.3)
    task = bundled(tmp_path, made, lossless=True)["x"]
    config, tensors = exported(task, tmp_path / "out")
    assert config["lora_parameters"]["scale"] == 0.15
    b = np.asarray(modules[Q][0], np.float32)
    np.testing.assert_array_equal(tensors[f"{Q}.lora_b"], b.T)


def test_number_of_layers_is_that_of_the_base(tmp_path: Path) -> None:
    task, base = small_task(tmp_path), tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"num_hidden_layers": 7}))
    assert exported(task, tmp_path / "out", base=base)[0]["num_layers"] == 7
    (base / "config.json").write_text(json.dumps({"num_hidden_layers": 1}))
    with raises(ExportError, adapter="numbers", file="config.json", got="2 layers"):
        export_mlx(task, tmp_path / "few", base=base)
    (base / "config.json").write_text(json.dumps({"text_config": {"num_hidden_layers": 5}}))
    assert exported(task, tmp_path / "both", base=base)[0]["num_layers"] == 5
    bad = ("{}", "[", '{"num_hidden_layers": "7"}', '{"num_hidden_layers": 0}', "3")
    for text in (*bad, '{"text_config": [1]}'):
        (base / "config.json").write_text(text)
        with pytest.raises(UsageError, match=str(tmp_path)):
            export_mlx(task, tmp_path / "bad", base=base)
    with pytest.raises(UsageError, match=str(tmp_path)):
        export_mlx(task, tmp_path / "bad", base=tmp_path / "none")
    assert not (tmp_path / "few").exists()
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    "path",
    [
        "model.layers.0.mlp.experts.3.up_proj",
        "model.vision.layers.0.q_proj",
        "model.conv",
    ],
)
def test_what_it_has_no_layer_for_is_refused(path: str, tmp_path: Path) -> None:
    pair = (np.ones((32, 2)), np.ones((2, 32)))
    if path.endswith("conv"):
        pair = (np.ones((4, 2, 1, 1)), np.ones((2, 3, 3, 3)))
    task = changed(tmp_path, {**pairs(), path: pair})
    with raises(ExportError, adapter="numbers"):
        export_mlx(task, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_embeddings_of_peft_are_refused(tmp_path: Path) -> None:
    """LoRAEmbedding.as_linear: with tied embeddings the head would change too."""
    key = "base_model.model.model.embed_tokens.lora_embedding_"
    extras = {f"{key}A": np.ones((2, 97), np.float32), f"{key}B": np.ones((32, 2), np.float32)}
    task = changed(tmp_path, {}, extras=extras, r=2, lora_alpha=2)
    with raises(ExportError, adapter="numbers", module="model.embed_tokens"):
        export_mlx(task, tmp_path / "out")


def test_a_lora_of_an_image_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    folder.mkdir()
    one = np.ones((2, 8), np.float32)
    arrays = {"lora_unet_a.lora_down.weight": one, "lora_unet_a.lora_up.weight": one.T.copy()}
    save_file(arrays, folder / "k.safetensors")
    with pytest.raises(ExportError):
        export_mlx(bundled(tmp_path, folder)["k"], tmp_path / "out")


def magnitudes(paths: Any, size: int | None = None) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(1)
    return {
        f"base_model.model.{path}.lora_magnitude_vector": np.abs(
            rng.standard_normal(size or SHAPES[path.split(".", 3)[3]][0])
        ).astype(np.float32)
        for path in paths
    }


def test_dora_of_all_modules(tmp_path: Path) -> None:
    """DoRALinear: m (output_dims,), one number for each output, as in PEFT."""
    extras = magnitudes(pairs())
    task = changed(tmp_path, extras=extras, use_dora=True)
    config, tensors = exported(task, tmp_path / "out")
    assert config["fine_tune_type"] == "dora"
    for key, values in extras.items():
        path = key.removeprefix("base_model.model.").removesuffix(".lora_magnitude_vector")
        np.testing.assert_array_equal(tensors[f"{path}.m"], values)


def test_dora_of_some_modules_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    some = changed(tmp_path / "some", extras=magnitudes([Q]), use_dora=True)
    with raises(ExportError, adapter="numbers", module="model.layers.0.mlp.down_proj"):
        export_mlx(some, tmp_path / "out")
    odd = changed(tmp_path / "odd", extras=magnitudes(pairs(), 5), use_dora=True)
    with pytest.raises(ExportError):
        export_mlx(odd, tmp_path / "out")


def test_a_peft_folder_in_the_way_is_not_mixed_with(tmp_path: Path) -> None:
    """Both formats call their config adapter_config.json."""
    taken = write_adapter(tmp_path / "taken", pairs())
    before = (taken / "adapter_config.json").read_bytes()
    with pytest.raises(UsageError):
        export_mlx(small_task(tmp_path), taken)
    assert (taken / "adapter_config.json").read_bytes() == before


def test_a_peft_adapter_there_does_not_stay_beside_the_config(tmp_path: Path) -> None:
    """The config would be read as that of PEFT's weights."""
    task = small_task(tmp_path)
    export_peft(task, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    export_mlx(task, tmp_path / "out", overwrite=True)
    assert {x.name for x in (tmp_path / "out").iterdir()} == {
        "README.md", "adapter_config.json", "adapters.safetensors", "notes.txt",
    }  # fmt: skip
    assert read_adapter(tmp_path / "out").format == "mlx"


@pytest.mark.parametrize("name", ["num_layers", "lora_layers"])
@pytest.mark.parametrize("lossless", [False, True])
def test_a_config_from_mlx_keeps_its_number_of_layers(
    name: str, lossless: bool, tmp_path: Path
) -> None:
    """num_layers and fine_tune_type have no defaults in Swift; early mlx-lm wrote lora_layers."""
    first, base = tmp_path / "first", tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"num_hidden_layers": 2}))
    config, _ = exported(small_task(tmp_path), first, base=base)
    del config["fine_tune_type"]
    config[name] = config.pop("num_layers")
    (first / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "b").mkdir()
    task = bundled(tmp_path / "b", first, lossless=lossless)["first"]
    again, _ = exported(task, tmp_path / "out")
    assert (again["fine_tune_type"], again["num_layers"]) == ("lora", 2)
    found = read_adapter(tmp_path / "out").modules
    for path, dense in products(task).items():
        np.testing.assert_allclose(np.matmul(*found[path].factors()), dense, atol=1e-6)
