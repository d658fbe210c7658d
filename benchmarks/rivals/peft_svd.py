"""PEFT's svd merge on a stand-in model that has nothing but the adapted linear layers.

Timed is ``add_weighted_adapter(combination_type="svd")`` alone, without reading or writing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, LoraModel, PeftModel
from safetensors.torch import load_file

from benchmarks.rivals.tool import Tool

__all__ = ["loaded", "tool"]


def stand_in(folder: str) -> torch.nn.Module:
    """Return a tree of modules with the paths and shapes of the adapter's, weights zero."""
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
    """Return a stand-in model with all adapters on it, and what they are called there."""
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


def tool(name: str) -> type[Tool]:
    """Return what is timed: all adapters on one model, merged in it again and again."""

    class Peft(Tool):
        def prepare(self) -> None:
            model, self.loaded = loaded([str(folder) for folder in self.folders])
            assert isinstance(model.base_model, LoraModel)
            self.lora = model.base_model
            self.count = 0

        def merge(self) -> None:
            weights = [1 / len(self.loaded)] * len(self.loaded)
            self.count += 1
            self.lora.add_weighted_adapter(
                self.loaded, weights, f"merged{self.count}", combination_type="svd"
            )

    return Peft
