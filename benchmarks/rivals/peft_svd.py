"""PEFT's svd merge on a stand-in model that has nothing but the adapted linear layers.

    python child_peft.py REPEATS ADAPTER_FOLDER...

Timed is ``add_weighted_adapter(combination_type="svd")`` alone, without reading or writing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file


def stand_in(folder: str) -> torch.nn.Module:
    """A tree of modules with the paths and shapes of the adapter's, weights zero."""
    shapes: dict[str, dict[str, torch.Size]] = {}
    for key, x in load_file(str(Path(folder) / "adapter_model.safetensors")).items():
        path, side = key.removeprefix("base_model.model.").split(".lora_")
        shapes.setdefault(path, {})[side[0]] = x.shape
    root = torch.nn.Module()
    for path, shape in shapes.items():
        *parents, name = path.split(".")
        node = root
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, torch.nn.Module())
            node = getattr(node, parent)
        linear = torch.nn.Linear(shape["A"][1], shape["B"][0], bias=False)
        torch.nn.init.zeros_(linear.weight)
        node.add_module(name, linear)
    return root


def loaded(folders: Sequence[str]) -> tuple[PeftModel, list[str]]:
    """A stand-in model with all adapters on it, and what they are called there."""
    model: PeftModel | None = None
    names = [f"task{i}" for i in range(len(folders))]
    for name, folder in zip(names, folders, strict=True):
        config = LoraConfig.from_pretrained(folder)
        config.task_type = None
        if model is None:
            model = PeftModel.from_pretrained(stand_in(folder), folder, name, config=config)
        else:
            model.load_adapter(folder, name)
    assert model is not None
    return model, names


def main() -> None:
    repeats = int(sys.argv[1])
    model, names = loaded(sys.argv[2:])
    for i in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        model.base_model.add_weighted_adapter(
            names, [1 / len(names)] * len(names), f"merged{i}", combination_type="svd"
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"run": "peft svd", "wall": wall, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main()
