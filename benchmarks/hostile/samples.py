"""Make sound files to damage: small adapters in every format and container, and bundles of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Tensors = dict[str, NDArray[Any]]


def tensors(seed: int, m: int = 24, n: int = 32, r: int = 4, layers: int = 3) -> Tensors:
    """Return PEFT tensors of a random adapter whose inputs are common to all seeds."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(10**6)
    result: Tensors = {}
    for layer in range(layers):
        for side in ("q_proj", "v_proj"):
            key = f"base_model.model.model.layers.{layer}.self_attn.{side}"
            a = common.standard_normal((r, n)) + 0.1 * rng.standard_normal((r, n))
            result[f"{key}.lora_A.weight"] = a.astype(np.float32)
            result[f"{key}.lora_B.weight"] = rng.standard_normal((m, r)).astype(np.float32) / 10
    return result


def peft_config(rank: int = 4) -> dict[str, Any]:
    """Return an adapter_config.json with the settings that a reader looks at."""
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "org/tiny",
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 4},
        "modules_to_save": None,
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "target_parameters": None,
        "init_lora_weights": True,
        "fan_in_fan_out": False,
    }


def write_peft(folder: Path, data: Tensors, rank: int = 4) -> Path:
    """Write a PEFT folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(data, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(peft_config(rank)))
    return folder


def _pairs(names: tuple[str, ...], a: str, b: str, transposed: bool = False) -> Tensors:
    result: Tensors = {}
    for name in names:
        rng = np.random.default_rng(len(name))
        down = rng.standard_normal((4, 16)).astype(np.float16)
        up = rng.standard_normal((12, 4)).astype(np.float16)
        result[f"{name}.{a}"] = np.ascontiguousarray(down.T if transposed else down)
        result[f"{name}.{b}"] = np.ascontiguousarray(up.T if transposed else up)
    return result


def lycoris() -> dict[str, Tensors]:
    """Return kohya files of what LyCORIS adds: LoHa, LoKr, whole differences, and Tucker cores."""
    rng = np.random.default_rng(9)

    def random(*shape: int) -> NDArray[np.float16]:
        return rng.standard_normal(shape).astype(np.float16)

    def module(name: str, **shapes: tuple[int, ...]) -> Tensors:
        parts = {k.replace("__", "."): random(*x) for k, x in shapes.items()}
        return {f"{name}.{k}": x for k, x in parts.items()} | {f"{name}.alpha": np.array(2.0, "f2")}

    te, unet = "lora_te1_text_model_mlp_fc1", "lora_unet_down_attn1_to_q"
    sides = {"hada_w1_a": (12, 4), "hada_w1_b": (4, 16), "hada_w2_a": (12, 4), "hada_w2_b": (4, 16)}
    turned = {k: x[::-1] if k.endswith("a") else x for k, x in sides.items()}
    full = {f"{unet}.diff": random(6, 8), f"{unet}.diff_b": random(6), f"{te}.w_norm": random(6),
            f"{te}.b_norm": random(6), "lora_unet_x.dora_scale": random(6, 1)}  # fmt: skip
    return {
        "loha": module(te, **sides) | module(unet, **sides),
        "lokr": module(te, lokr_w1=(3, 4), lokr_w2_a=(8, 2), lokr_w2_b=(2, 9))
        | module(unet, lokr_w1_a=(6, 2), lokr_w1_b=(2, 5), lokr_w2_a=(8, 2), lokr_w2_b=(2, 9))
        | module("lora_unet_x", lokr_w1=(3, 4), lokr_w2=(4, 3)),
        "full": full | module("lora_unet_x", lora_up__weight=(6, 2), lora_down__weight=(2, 5)),
        "cores": module("lora_unet_conv", lora_up__weight=(6, 2, 1, 1),
                        lora_mid__weight=(2, 2, 3, 3), lora_down__weight=(2, 4, 1, 1))
        | module("lora_unet_conv2", hada_t1=(4, 4, 3, 3), hada_t2=(4, 4, 3, 3), **turned)
        | module("lora_unet_conv3", lokr_w1=(3, 4), lokr_w2_a=(2, 5), lokr_w2_b=(2, 4),
                 lokr_t2=(2, 2, 3, 3))
        | module("lora_unet_oft", oft_blocks=(3, 4, 4), rescale=(12, 1)),
    }  # fmt: skip


def write_adapters(folder: Path) -> dict[str, Path]:
    """Write one sound adapter of each format and container below ``folder``.

    Returns their paths by a short name.
    """
    import torch

    plain = {f"plain{i}": write_peft(folder / f"plain{i}", tensors(i)) for i in range(3)}
    head = {"base_model.model.lm_head.weight": np.ones((7, 9), np.float16)}
    biases = {f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_B.bias": np.ones(24, "f4")
              for i in range(2)}  # fmt: skip
    headed = write_peft(folder / "headed", tensors(7) | head | biases)

    pickled = write_peft(folder / "pickled", tensors(5))
    (pickled / "adapter_model.safetensors").unlink()
    torch.save({k: torch.from_numpy(v) for k, v in tensors(5).items()},
               pickled / "adapter_model.bin")  # fmt: skip

    kohya = _pairs(("lora_unet_down_attn1_to_q", "lora_te_text_model_mlp_fc1"),
                   "lora_down.weight", "lora_up.weight")  # fmt: skip
    kohya |= {f"{k.partition('.')[0]}.alpha": np.array(2.0, "f2") for k in list(kohya)}
    conv = "lora_unet_down_conv"
    kohya[f"{conv}.lora_down.weight"] = np.ones((4, 3, 3, 3), np.float16)
    kohya[f"{conv}.lora_up.weight"] = np.ones((6, 4, 1, 1), np.float16)
    image = folder / "image.safetensors"
    save_file(kohya, image, metadata={"ss_network_module": "networks.lora"})

    diffusers = folder / "diffusers" / "pytorch_lora_weights.safetensors"
    diffusers.parent.mkdir()
    names = ("unet.down_blocks.0.attn1.to_q", "text_encoder.layers.1.self_attn.q_proj")
    settings = {
        "unet.r": 4,
        "unet.lora_alpha": 8,
        "text_encoder.r": 4,
        "text_encoder.lora_alpha": 4,
    }
    save_file(_pairs(names, "lora_A.weight", "lora_B.weight"), diffusers,
              metadata={"lora_adapter_metadata": json.dumps(settings)})  # fmt: skip

    loralib = folder / "loralib" / "model.safetensors"
    loralib.parent.mkdir()
    (loralib.parent / "adapter_config.json").write_text('{"enable_lora": [true, false, true]}')
    fused = {"h.0.attn.c_attn.lora_A": np.ones((8, 16), "f4"),
             "h.0.attn.c_attn.lora_B": np.ones((24, 4), "f4")}  # fmt: skip
    save_file(_pairs(("h.1.mlp.fc", "h.0.mlp.fc"), "lora_A", "lora_B") | fused, loralib)

    mlx = _pairs(("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"),
                 "lora_a", "lora_b", True)  # fmt: skip
    about = {"lora_parameters": {"rank": 4, "scale": 20.0}, "num_layers": 2, "model": "org/tiny"}
    made = {}
    for kind in ("safetensors", "npz"):
        made[f"mlx-{kind}"] = folder / f"mlx-{kind}"
        made[f"mlx-{kind}"].mkdir()
        (made[f"mlx-{kind}"] / "adapter_config.json").write_text(json.dumps(about))
    save_file(mlx, made["mlx-safetensors"] / "adapters.safetensors")
    np.savez(made["mlx-npz"] / "adapters.npz", **mlx)  # type: ignore[arg-type]
    for name, data in lycoris().items():
        made[name] = folder / f"{name}.safetensors"
        save_file(data, made[name], metadata={"ss_network_module": "lycoris.kohya"})
    return {**plain, "headed": headed, "pickled": pickled, "image": image,
            "diffusers": diffusers.parent, "loralib": loralib.parent, **made}  # fmt: skip


def write_bundles(folder: Path, adapters: dict[str, Path]) -> list[Path]:
    """Write bundles of these adapters.

    They have shared bases, private, started and lossless tasks, carried tensors, and several
    formats.
    """
    from hydraopt.merging import merge

    folder.mkdir()
    plain = [adapters[f"plain{i}"] for i in range(3)]
    bundles = [folder / f"bundle{i}.hydra.safetensors" for i in range(9)]
    merge(plain, bundles[0], error=0.02, workers=1)
    merge([*plain, adapters["headed"]], bundles[1], error=0.3, workers=1)
    merge(plain, bundles[2], error=0.2, forms=["private"], workers=1)
    merge([plain[0], adapters["headed"]], bundles[3], lossless=True)
    merge([adapters["image"]], bundles[4], error=0.1, workers=1)
    merge([adapters["mlx-safetensors"]], bundles[5], error=0.1, workers=1)
    merge([adapters["loralib"]], bundles[6], lossless=True)
    merge([adapters["diffusers"]], bundles[7], error=0.1, workers=1)
    merge([adapters[name] for name in lycoris()], bundles[8], error=0.1, workers=1)
    cases = Path(__file__).parents[2] / "conformance" / "cases"
    started = sorted(cases.glob("started-*.hydra.safetensors"))
    return bundles + [Path(shutil.copy(x, folder)) for x in started]


def write_base(folder: Path) -> Path:
    """Write a folder that can be the base of the plain adapters for export to gguf and merged."""
    folder.mkdir()
    about = {"model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 2,
             "num_hidden_layers": 3}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    weights = {f"model.layers.{i}.self_attn.{side}.weight": np.ones((24, 32), np.float32)
               for i in range(3) for side in ("q_proj", "v_proj")}  # fmt: skip
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
