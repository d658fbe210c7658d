"""A small Llama, a bundle of tasks on it, and readers of every export format, for the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors.torch import load_file

from hydraopt.adapters import Adapter, read_adapter
from hydraopt.bundle import Bundle, TaskAdapter, open_bundle
from tests.bundle.bundles import bundle_of
from tests.conftest import write_adapter
from tests.small_model import tiny_llama
from tests.starting import near_start, started

Dense = dict[str, NDArray[Any]]

# (m, n) of the layers of tests.small_model.tiny_llama that the tasks change, and their ranks.
SHAPES = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "mlp.down_proj": (32, 48)}
RANKS = {"self_attn.q_proj": 2, "self_attn.k_proj": 3, "mlp.down_proj": 9}
HEADS = {"q_proj": 4, "k_proj": 2}


def save_base(folder: Path, dtype: Any = None, **shards: Any) -> Path:
    """The small Llama as a transformers folder."""
    model = tiny_llama()
    if dtype is not None:
        model = model.to(dtype)
    model.save_pretrained(folder, **shards)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


# Where the layers are for the formats of image models, which know no others.
IMAGE_LAYERS = ("unet.down_blocks.0.attentions.1", "unet.mid_block.attentions.0")
IMAGE = ("kohya", "diffusers")


def pairs(seed: int = 0, form: str = "peft") -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """(B, A) of the layers that the tasks change, under names that the format can have."""
    rng = np.random.default_rng(seed)
    return {
        f"{IMAGE_LAYERS[i] if form in IMAGE else f'model.layers.{i}'}.{name}": (
            rng.standard_normal((m, RANKS[name])) / 8,
            rng.standard_normal((RANKS[name], n)) / 8,
        )
        for i in range(2)
        for name, (m, n) in SHAPES.items()
    }


def bundled(folder: Path, *adapters: Path | Adapter, **options: Any) -> Bundle:
    path = folder / "b.hydra.safetensors"
    read = [read_adapter(x) if isinstance(x, Path) else x for x in adapters]
    bundle_of(read, **{"step": 1 << 18, **options}).write(path)
    return open_bundle(path)


def small_task(folder: Path, seed: int = 0, form: str = "peft", **options: Any) -> TaskAdapter:
    """A task of mixed ranks with a scale other than 1, of a model that the format is for."""
    made = write_adapter(folder / "numbers", pairs(seed, form), alpha=5, **options)
    return bundled(folder, made)["numbers"]


def started_task(folder: Path, form: str = "peft") -> TaskAdapter:
    """The same, near an initial A and written over it."""
    made = write_adapter(folder / "numbers", near_start(pairs(0, form)), alpha=5)
    return bundled(folder, started(read_adapter(made)))["numbers"]


def stacked_experts(folder: Path, swapped: bool = False, rank: int = 2) -> Path:
    """An adapter of three experts in one tensor: gate_up_proj (12, 8) and down_proj (8, 6) each.

    swapped: as older versions of PEFT wrote it, where A reads the output.
    """
    rng, path = np.random.default_rng(3), "model.layers.0.mlp.experts"
    shapes = {f"{path}.base_layer": (12, 8), path: (8, 6)}
    tensors = {}
    for name, (m, n) in shapes.items():
        rows, columns = (n, m) if swapped else (m, n)
        tensors[name] = (
            rng.standard_normal((rows, 3 * rank)),
            rng.standard_normal((3 * rank, columns)),
        )
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = {"target_modules": [], "target_parameters": parameters, "r": rank, "lora_alpha": rank}
    return write_adapter(folder, tensors, rank_pattern={}, alpha_pattern={}, **config)


def products(task: TaskAdapter) -> Dense:
    return {path: x.B @ x.A for path, x in task.factors().items()}


def of_adapter(target: Path, base: Path) -> Dense:
    modules = read_adapter(target).modules
    return {path: np.matmul(*module.factors()) for path, module in modules.items()}


def of_kohya(target: Path, base: Path) -> Dense:
    """By dotted names, which the file does not have."""
    dotted = {"lora_" + path.replace(".", "_"): path for path in pairs(form="kohya")}
    return {dotted[name]: dense for name, dense in of_adapter(target, base).items()}


def of_gguf(target: Path, base: Path) -> Dense:
    """What llama.cpp adds to each weight, back under transformers' names and order of rows."""
    reader = gguf.GGUFReader(target)
    alpha = float(reader.fields["adapter.lora.alpha"].parts[-1][0])
    tensors = {x.name: gguf.quants.dequantize(x.data, x.tensor_type) for x in reader.tensors}
    names = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "ffn_down": "mlp.down_proj",
    }
    found = {}
    for name in sorted(x.removesuffix(".lora_a") for x in tensors if x.endswith(".lora_a")):
        _, block, kind, _ = name.split(".")
        a, b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        dense = alpha / a.shape[0] * b @ a
        last = names[kind].rpartition(".")[2]
        if last in HEADS:
            half = len(dense) // HEADS[last] // 2
            rows = [
                head * 2 * half + 2 * i + side
                for head in range(HEADS[last])
                for side in range(2)
                for i in range(half)
            ]
            dense = dense[rows]
        found[f"model.layers.{block}.{names[kind]}"] = dense
    return found


def of_onnx(target: Path, base: Path) -> Dense:
    """What a model with LoRA inputs adds to each weight: (n, r) times (r, m), for x W."""
    read = onnxruntime.AdapterFormat.read_adapter(str(target)).get_parameters()
    tensors = {name: x.numpy().astype(np.float64) for name, x in read.items()}
    paths = {name.rpartition(".lora_")[0] for name in tensors}
    assert set(tensors) == {f"{x}.lora_{half}.weight" for x in paths for half in "AB"}
    return {x: (tensors[f"{x}.lora_A.weight"] @ tensors[f"{x}.lora_B.weight"]).T for x in paths}


def of_merged(target: Path, base: Path) -> Dense:
    def weights(folder: Path) -> dict[str, Any]:
        return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}

    old, new = weights(base), weights(target)
    assert {k: (v.dtype, v.shape) for k, v in old.items()} == {
        k: (v.dtype, v.shape) for k, v in new.items()
    }
    differ = {k: (new[k].double() - old[k].double()).numpy() for k in old}
    return {k.removesuffix(".weight"): v for k, v in differ.items() if v.any()}


READERS: Mapping[str, Callable[[Path, Path], Dense]] = {
    "peft": of_adapter,
    "vllm": of_adapter,
    "gguf": of_gguf,
    "mlx": of_adapter,
    "onnx": of_onnx,
    "kohya": of_kohya,
    "diffusers": of_adapter,
    "merged": of_merged,
}
