"""Wrap the registry's methods as compressors: each writes one bundle."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rivals.base import Compressor, Modules, Tasks
from benchmarks.rivals.merging import METHODS
from hydraopt import open_bundle
from hydraopt.adapters import Adapter, LowRankModule, RawTensor, TensorFile
from hydraopt.merging import combine

__all__ = ["BUNDLE", "adapter_of", "combined", "read_bundle"]

BUNDLE = "all.hydra.safetensors"


def adapter_of(name: str, modules: Modules) -> Adapter:
    """Return an adapter in memory with these factors, of scale 1."""
    low_rank, keys, tensors = {}, {}, {}
    for path, (b, a) in modules.items():
        sides = {}
        for side, x in (("A", a), ("B", b)):
            key = f"base_model.model.{path}.lora_{side}.weight"
            sides[side] = RawTensor.from_numpy(key, x.astype(np.float32))
            keys[path, side], tensors[key] = key, sides[side]
        r = a.shape[0]
        low_rank[path] = LowRankModule(
            path, "linear", b.shape[0], a.shape[1], r, 1.0, sides["A"], sides["B"]
        )
    return Adapter(
        name=name,
        source=Path("memory"),
        format="peft",
        base_model=None,
        config={"peft_type": "LORA", "target_modules": sorted(modules)},
        modules=low_rank,
        extras={},
        tensors=TensorFile(Path("memory"), tensors, {"format": "pt"}),
        peft_keys=keys,
    )


def combined(
    method: str,
    setting: str = "",
    name: str | None = None,
    shuffled: bool = False,
    **options: Any,
) -> Compressor:
    """Return a method with these options.

    name: what tables call it, default the method. shuffled: tasks come in a random order, for a
    method that takes them one by one.
    """

    def write(tasks: Tasks, folder: Path) -> None:
        adapters = [adapter_of(task, modules) for task, modules in tasks.items()]
        if shuffled:
            random.Random(0).shuffle(adapters)
        combine(adapters, folder / BUNDLE, METHODS.get(method, method), **options)

    return Compressor(name or method, setting, write, read_bundle)


def read_bundle(folder: Path, task: str) -> Modules:
    """Return one task of the bundle in a row's folder."""
    factors = open_bundle(folder / BUNDLE)[task].factors()
    return {p: (f.B.astype(np.float32), f.A.astype(np.float32)) for p, f in factors.items()}
