"""MLX adapter folders, held against the rules of mlx-swift-lm's loader one by one.

There is no Swift here, so what its source does (mlx-swift-lm 1441444, LoRAContainer.swift and
LoRA+Layers.swift; mlx-swift 0.31.6, Module.update and NestedItem.unflattened) is written down in
Python once more, with its gaps: shapes are not compared, and parameters of layers past the last one
fall away in silence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from hydraopt.errors import ExportError
from hydraopt.export import export_mlx
from tests.conftest import write_adapter
from tests.export.targets import SHAPES, bundled, pairs, products, small_task
from tests.raising import raises

Dense = dict[str, NDArray[Any]]
LAYERS = 2


class Refused(Exception):
    """What the loader throws."""


class Trapped(Exception):
    """What ends the program."""


def model(layers: int = LAYERS, others: Any = ("lm_head",)) -> dict[str, tuple[int, int]]:
    """Linear modules of a model by path: (inputs, outputs)."""
    inner = {
        f"model.layers.{i}.{name}": (n, m) for i in range(layers) for name, (m, n) in SHAPES.items()
    }
    return inner | dict.fromkeys(others, (32, 97))


def configuration(folder: Path) -> dict[str, Any]:
    """LoRAConfiguration, decoded: every type and bound that it asks for."""
    config = json.loads((folder / "adapter_config.json").read_text())
    parameters = config["lora_parameters"]
    if config["fine_tune_type"] not in ("lora", "dora"):
        raise Refused(config["fine_tune_type"])
    for holder, key, kinds in (
        (config, "num_layers", (int,)),
        (parameters, "rank", (int,)),
        (parameters, "scale", (int, float)),
    ):
        if type(holder.get(key)) not in kinds:
            raise Refused(key)
    if not 0 <= parameters.get("dropout", 0.0) < 1:
        raise Refused("dropout")
    keys = parameters.get("keys")
    if keys is not None and not all(isinstance(x, str) for x in keys):
        raise Refused("keys")
    return dict(config)


def load(folder: Path, linear: dict[str, tuple[int, int]]) -> Dense:
    """What LoRAContainer.load adds to the weights (outputs, inputs) of those modules, by path."""
    config = configuration(folder)
    parameters = config["lora_parameters"]
    if config["num_layers"] < 0:
        raise Trapped("suffix of negative length")
    layers = 1 + max(int(x.split(".")[2]) for x in linear if x.startswith("model.layers."))
    # loraLayers.suffix(numLayers), then namedModules of each that are among the keys.
    wrapped = {
        path: [np.full((n, parameters["rank"]), 0.1), np.zeros((parameters["rank"], m))]
        for path, (n, m) in linear.items()
        if path.startswith("model.layers.")
        and int(path.split(".")[2]) >= layers - config["num_layers"]
        and path.split(".", 3)[3] in parameters["keys"]
    }
    # model.update(parameters, verify: .noUnusedKeys): no check of shapes.
    for name, values in load_file(folder / "adapters.safetensors").items():
        path, _, half = name.rpartition(".")
        parts = path.split(".")
        if parts[:2] == ["model", "layers"] and int(parts[2]) >= layers:
            continue  # zip of the model's layers and the file's ends with the shorter
        if path not in wrapped or half not in ("lora_a", "lora_b"):
            raise Refused(f"unhandledKeys {name}")
        wrapped[path][half == "lora_b"] = values
    return {path: parameters["scale"] * (a @ b).T for path, (a, b) in wrapped.items()}


def based(folder: Path, layers: int = LAYERS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))
    return folder


def assert_same(found: Dense, expected: Dense) -> None:
    """What is added to each module is the task's change, and nothing where it has none."""
    assert set(expected) <= set(found)
    for path, dense in found.items():
        wanted = expected.get(path, np.zeros_like(dense))
        np.testing.assert_allclose(dense, wanted, atol=1e-6, err_msg=path)


def test_one_rank_and_one_scale_give_the_tasks_products(tmp_path: Path) -> None:
    """The config has one rank and one scale; the task has three of each."""
    task = small_task(tmp_path, rank_pattern={"q_proj": 2, "k_proj": 3, "down_proj": 9})
    export_mlx(task, tmp_path / "out", base=based(tmp_path / "base"))
    rank = configuration(tmp_path / "out")["lora_parameters"]["rank"]
    for name, values in load_file(tmp_path / "out" / "adapters.safetensors").items():
        assert values.shape[1 if name.endswith("lora_a") else 0] == rank
    assert_same(load(tmp_path / "out", model()), products(task))


def test_a_scale_in_the_config_is_applied_once(tmp_path: Path) -> None:
    path = "model.layers.1.self_attn.q_proj"
    made = write_adapter(tmp_path / "x", {path: pairs()[path]}, alpha=0.3)
    task = bundled(tmp_path, made, lossless=True)["x"]
    export_mlx(task, tmp_path / "out", base=based(tmp_path / "base"))
    assert configuration(tmp_path / "out")["lora_parameters"]["scale"] == 0.15
    assert_same(load(tmp_path / "out", model()), products(task))


@pytest.mark.parametrize("layers", [2, 5])
def test_number_of_layers_reaches_every_layer(layers: int, tmp_path: Path) -> None:
    """suffix(numLayers): a smaller number would leave the first layers out."""
    task = small_task(tmp_path)
    export_mlx(task, tmp_path / "out", base=based(tmp_path / "base", layers))
    assert_same(load(tmp_path / "out", model(layers)), products(task))


def test_without_a_base_it_stops_and_nothing_is_left_out(tmp_path: Path) -> None:
    """-1 is mlx-lm's word for all; in Swift it is a trap, which nobody overlooks."""
    export_mlx(small_task(tmp_path), tmp_path / "out")
    with pytest.raises(Trapped):
        load(tmp_path / "out", model())


def test_layers_that_the_model_lacks_would_fall_away_so_they_are_refused(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    export_mlx(task, tmp_path / "out", base=based(tmp_path / "base"))
    assert len(load(tmp_path / "out", model(1))) < len(products(task))  # in silence
    with raises(ExportError, adapter="numbers", file="config.json", got="2 layers"):
        export_mlx(task, tmp_path / "few", base=based(tmp_path / "one", 1))


def test_keys_name_modules_inside_a_layer(tmp_path: Path) -> None:
    """namedModules of a layer: dotted names without the layer's own, equal and no suffix."""
    modules = {k: v for k, v in pairs().items() if not k.startswith("model.layers.0.mlp")}
    made = write_adapter(tmp_path / "x", modules)
    task = bundled(tmp_path, made)["x"]
    export_mlx(task, tmp_path / "out", base=based(tmp_path / "base"))
    keys = configuration(tmp_path / "out")["lora_parameters"]["keys"]
    assert keys == sorted(SHAPES)
    # Layer 0's mlp.down_proj becomes a LoRA layer too: its B stays zero.
    assert_same(load(tmp_path / "out", model()), products(task))


def test_modules_outside_the_layers_are_refused_by_the_loader(tmp_path: Path) -> None:
    """It looks for keys in loraLayers alone, so lm_head's tensors are unused keys: an error."""
    modules = {**pairs(), "lm_head": (np.ones((97, 2)), np.ones((2, 32)))}
    task = bundled(tmp_path, write_adapter(tmp_path / "x", modules))["x"]
    export_mlx(task, tmp_path / "out", base=based(tmp_path / "base"))
    with pytest.raises(Refused, match="lm_head"):
        load(tmp_path / "out", model())


@pytest.mark.parametrize("name", ["num_layers", "lora_layers"])
def test_a_config_from_mlx_has_what_the_loader_decodes(name: str, tmp_path: Path) -> None:
    """num_layers and fine_tune_type have no defaults there; early mlx-lm wrote lora_layers."""
    first = tmp_path / "first"
    export_mlx(small_task(tmp_path), first, base=based(tmp_path / "base"))
    config = json.loads((first / "adapter_config.json").read_text())
    del config["fine_tune_type"]
    config[name] = config.pop("num_layers")
    (first / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "b").mkdir()
    for lossless in (True, False):
        options = {"lossless": True} if lossless else {}
        task = bundled(tmp_path / "b", first, **options)["first"]
        export_mlx(task, tmp_path / f"out{lossless}")
        assert configuration(tmp_path / f"out{lossless}")["num_layers"] == LAYERS
        assert_same(load(tmp_path / f"out{lossless}", model()), products(task))
