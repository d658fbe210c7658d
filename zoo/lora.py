"""LoRA factors on a plain model: create, attach by forward hooks, read and write PEFT folders.

A set of factors is a dict from module path (`model.layers.0.self_attn.q_proj`) to the pair (B, A)
with B: (m, r), A: (r, n), so that the module computes W x + scale * B (A x). Hooks leave the
model's own modules untouched: swapping adapters is swapping hooks, and module paths do not change.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

Factors = Mapping[str, tuple[Tensor, Tensor]]

_PREFIX = "base_model.model."  # PEFT wraps the model twice and its keys say so


class FactorError(ValueError):
    """Factors do not fit the model, or a PEFT folder says something not supported here."""


def target_modules(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear modules whose last name is one of `targets`, by path, in model order."""
    found = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] in targets
    }
    missing = set(targets) - {path.rpartition(".")[2] for path in found}
    if missing:
        raise FactorError(f"the model has no linear module called {sorted(missing)}")
    return found


def init_factors(
    model: nn.Module, targets: Sequence[str], rank: int, seed: str | int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Trainable float32 factors: B zero, A uniform in ±1/√n (PEFT's default).

    seed: any text. A depends on it and on the module path alone, so adapters trained with the same
    seed start from the same A whatever else differs between them. With a number, A is what PEFT
    draws for this model after `torch.manual_seed(seed)`.
    """
    if isinstance(seed, int):
        return _drawn_by_peft(model, targets, rank, seed)
    factors = {}
    for path, module in target_modules(model, targets).items():
        rng = torch.Generator().manual_seed(module_seed(seed, path))
        bound = 1 / math.sqrt(module.in_features)
        a = (2 * torch.rand(rank, module.in_features, generator=rng) - 1) * bound
        b = torch.zeros(module.out_features, rank)
        factors[path] = (b.requires_grad_(), a.requires_grad_())
    return factors


def module_seed(seed: str, path: str) -> int:
    """The seed of the generator that draws the initial A of a module, for a text as seed."""
    digest = hashlib.sha256(f"{seed}/{path}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _drawn_by_peft(
    model: nn.Module, targets: Sequence[str], rank: int, seed: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors that PEFT adds to a copy of the model, float32 on the CPU as a script's are."""
    config = LoraConfig(r=rank, target_modules=list(targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        copied: Any = inject_adapter_in_model(config, copy.deepcopy(model).float().cpu())
    added = {path: x for path, x in copied.named_modules() if hasattr(x, "lora_A")}
    factors = {}
    for path in target_modules(model, targets):
        pair = (added[path].lora_B["default"].weight, added[path].lora_A["default"].weight)
        b, a = (weight.detach().clone().requires_grad_() for weight in pair)
        factors[path] = (b, a)
    return factors


@contextmanager
def attached(model: nn.Module, factors: Factors, scale: float = 1.0) -> Iterator[None]:
    """Inside the block each named module adds scale * B (A x) to its output.

    Factors may have another dtype than the model; gradients flow to them.
    Raises FactorError if a module is missing, is not linear, or has other shapes.
    """
    modules = dict(model.named_modules())
    handles = []
    try:
        for path, (b, a) in factors.items():
            module = modules.get(path)
            if not isinstance(module, nn.Linear):
                raise FactorError(f"the model has no linear module {path}")
            shape = (module.out_features, module.in_features)
            if (b.shape[0], a.shape[1]) != shape or b.shape[1] != a.shape[0]:
                raise FactorError(
                    f"{path}: B {tuple(b.shape)} and A {tuple(a.shape)} do not fit a weight {shape}"
                )
            handles.append(module.register_forward_hook(_adder(b, a, scale)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(b: Tensor, a: Tensor, scale: float) -> Any:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0]
        # Cast per call: a copy made once would cut training off from the factors' later values.
        return output + scale * F.linear(F.linear(x, a.to(x.dtype)), b.to(x.dtype))

    return hook


def write_peft(
    folder: Path, factors: Factors, *, hub_id: str, alpha: float, dtype: torch.dtype
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`; alpha/r is not in B."""
    ranks = {b.shape[1] for b, _ in factors.values()}
    if len(ranks) != 1:
        raise FactorError(f"one rank for all modules is needed, got {sorted(ranks)}")
    folder.mkdir(parents=True, exist_ok=True)
    peft_config: Any = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=ranks.pop(),
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=sorted({path.rpartition(".")[2] for path in factors}),
        base_model_name_or_path=hub_id,
        inference_mode=True,
    )
    config = peft_config.to_dict()
    # PEFT holds the targets in a set, whose order differs from run to run.
    config["target_modules"] = sorted(config["target_modules"])
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    tensors = {}
    for path, (b, a) in factors.items():
        tensors[f"{_PREFIX}{path}.lora_B.weight"] = b.detach().to(dtype).contiguous()
        tensors[f"{_PREFIX}{path}.lora_A.weight"] = a.detach().to(dtype).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def read_peft(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The float32 factors of a PEFT folder by module path, with the scale folded into B.

    The scale is alpha/r, or alpha/√r for rsLoRA. This reader is for the zoo's own adapters: what it
    does not know (rank_pattern, alpha_pattern, DoRA, keys other than LoRA pairs) it refuses.
    """
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    for option in ("rank_pattern", "alpha_pattern", "use_dora", "modules_to_save"):
        if config.get(option):
            raise FactorError(f"{folder.name}: {option} = {config[option]!r} is not supported here")
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    tensors = load_file(folder / "adapter_model.safetensors")
    factors = {}
    for key in sorted(tensors):
        path, dot, kind = key.removeprefix(_PREFIX).rpartition(".lora_")
        if not (key.startswith(_PREFIX) and dot and kind in ("A.weight", "B.weight")):
            raise FactorError(f"{folder.name}: {key!r} is not a LoRA factor")
        if kind == "B.weight":
            a = tensors[f"{_PREFIX}{path}.lora_A.weight"]
            factors[path] = (scale * tensors[key].float(), a.float())
    return factors
