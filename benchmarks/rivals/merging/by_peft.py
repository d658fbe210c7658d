"""Merging methods as PEFT has them: ``add_weighted_adapter`` on a stand-in of one linear layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hydraopt.codec import Array, Factors
from hydraopt.merging import Merged
from hydraopt.merging.hydra import check_shapes, rank_for, weights_for

__all__ = ["added", "elected", "peft_method"]


def added(
    kind: str,
    factors: Sequence[Factors],
    weights: Sequence[float],
    inner_scales: Sequence[float] | None = None,
    **options: Any,
) -> Factors:
    """Return what ``add_weighted_adapter`` makes of a module's adapters.

    Args:
        kind: PEFT's combination type.
        factors: of each task; inner_scales: the scales inside the B's, which PEFT keeps apart.
        weights: of each task.
        options: other arguments of ``add_weighted_adapter``.
    """
    import torch
    from peft import LoraConfig, LoraModel

    m, n = check_shapes(factors)
    scales = weights_for(inner_scales, len(factors), 1.0, what="inner scales")
    root = torch.nn.Module()
    root.add_module("layer", torch.nn.Linear(n, m, bias=False))
    names = [f"task{t}" for t in range(len(factors))]
    model: Any = None
    for name, f, scale in zip(names, factors, scales, strict=True):
        r = f.A.shape[0]
        config = LoraConfig(r=r, lora_alpha=r * (scale or 1.0), target_modules=["layer"])
        if model is None:
            model = LoraModel(root, config, name)
        else:
            model.peft_config[name] = config
            model.inject_adapter(root, name)
        layer = root.get_submodule("layer")
        layer.lora_A[name].weight.data = torch.from_numpy(f.A.astype(np.float32))  # type: ignore[index, union-attr]
        stored = (f.B / (scale or 1.0)).astype(np.float32)
        layer.lora_B[name].weight.data = torch.from_numpy(stored)  # type: ignore[index, union-attr]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of a density of 1
        model.add_weighted_adapter(names, list(weights), "merged", kind, **options)
    layer = root.get_submodule("layer")
    sides = (getattr(layer, f"lora_{x}")["merged"].weight.detach().numpy() for x in "BA")
    return Factors(*(side.astype(np.float64) for side in sides))


def peft_method(
    kind: str, *, mean: bool = True, density: float | None = None, lam: float = 1.0
) -> Callable[..., Merged]:
    """Return a method that runs a combination type of PEFT.

    Args:
        kind: the combination type.
        mean: whether weights are 1/T by default, and not 1.
        density: default share of the entries that stay, where the type prunes.
        lam: default factor of the result.
    """
    cut, prunes = kind.endswith("svd"), density is not None

    def run(
        factors: Sequence[Factors],
        weights: Sequence[float] | None = None,
        density: float | None = density,
        lam: float = lam,
        rank: int | None = None,
        seed: int = 0,
        inner_scales: Sequence[float] | None = None,
    ) -> Merged:
        import torch

        check_shapes(factors)
        w = lam * weights_for(weights, len(factors), 1 / len(factors) if mean else 1.0)
        options: dict[str, Any] = {"density": density} if prunes else {}
        if cut:
            options |= {"svd_rank": rank_for(rank, factors), "svd_full_matrices": False}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            one = added(kind, factors, w.tolist(), inner_scales, **options)
        return Merged.one_for_all(one, len(factors))

    return run


def elected(matrices: Sequence[Array], weights: Array, density: float) -> Array:
    """Return TIES of whole matrices: trimmed to ``density``, and the mean where signs agree."""
    import torch
    from peft.utils.merge_utils import ties

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a density of 1
        merged = ties(
            [torch.from_numpy(x.astype(np.float32)) for x in matrices],
            torch.from_numpy(weights.astype(np.float32)),
            density,
        )
    result: Array = merged.numpy().astype(np.float64)
    return result
