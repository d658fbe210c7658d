"""mergekit-extract-lora, on two models: a Llama of zeros, and the same with the adapters' mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.rivals.tool import Tool

__all__ = ["tool", "write_models"]


def write_models(folders: Sequence[Path], base: Path, tuned: Path) -> tuple[list[str], int]:
    """Write both, in float16, and return the last names of the adapted modules, and the rank.

    folders: PEFT adapters of scale 1 of modules that a Llama has, with its shapes.
    """
    deltas: dict[str, torch.Tensor] = {}
    for folder in folders:
        tensors = load_file(str(folder / "adapter_model.safetensors"))
        for key in tensors:
            if ".lora_B." in key:
                b, a = tensors[key].float(), tensors[key.replace(".lora_B.", ".lora_A.")].float()
                path = key.removeprefix("base_model.model.").split(".lora_B.")[0]
                delta = (b @ a) / len(folders)
                deltas[path] = deltas[path] + delta if path in deltas else delta
                rank = b.shape[1]
    model: Any = LlamaForCausalLM(_config(deltas))
    model.half()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.save_pretrained(base)
    for path, delta in deltas.items():
        model.get_submodule(path).weight.data = delta.half()
    model.save_pretrained(tuned)
    return sorted({path.split(".")[-1] for path in deltas}), rank


def _config(deltas: dict[str, torch.Tensor]) -> LlamaConfig:
    """Return the config of the smallest Llama that has these modules."""
    shapes = {path.split(".")[-1]: tuple(delta.shape) for path, delta in deltas.items()}
    hidden = shapes["q_proj"][1]
    head = 64
    return LlamaConfig(
        vocab_size=32,
        hidden_size=hidden,
        intermediate_size=shapes.get("gate_proj", (head, hidden))[0],
        num_hidden_layers=1 + max(int(path.split(".")[2]) for path in deltas),
        num_attention_heads=shapes["q_proj"][0] // head,
        num_key_value_heads=shapes.get("k_proj", (head, hidden))[0] // head,
        head_dim=head,
    )


def tool(name: str) -> type[Tool]:
    """Return what is timed: extraction alone, from a model with the adapters' mean added."""
    from mergekit.scripts.extract_lora import main

    class Mergekit(Tool):
        def prepare(self) -> None:
            self.base, self.model = self.saved.parent / "base", self.saved.parent / "tuned"
            self.kinds, self.rank = write_models(self.folders, self.base, self.model)

        def merge(self) -> None:
            arguments = ["--model", self.model, "--base-model", self.base]
            arguments += ["--out-path", self.saved, "--max-rank", self.rank]
            arguments += ["--skip-undecomposable"]
            arguments += [x for kind in self.kinds for x in ("-i", rf"\.{re.escape(kind)}$")]
            main.main([str(x) for x in arguments], standalone_mode=False)

    return Mergekit
