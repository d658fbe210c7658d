"""Packages that are asked for factors: each runs its own module in its own environment."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from benchmarks.common import local_folder
from benchmarks.rivals.base import Floats, Modules
from benchmarks.rivals.environments import python_of, run_module
from benchmarks.rivals.registry import PACKAGES, Rival
from hydraopt.adapters import Adapter

__all__ = ["Rebuilt", "ask", "ask_all"]


@dataclass(frozen=True)
class Rebuilt:
    """What a rival made of all tasks at one setting. A failure has no factors, and says why."""

    name: str
    setting: str
    bytes: int
    factors: Mapping[str, Modules] = field(repr=False)
    seconds: float | None = None
    failed: str | None = None


def ask_all(adapters: Sequence[Adapter]) -> Iterator[Rebuilt]:
    """Every package at every k."""
    for rival in PACKAGES:
        yield from ask(rival, adapters)


def ask(rival: Rival, adapters: Sequence[Adapter]) -> Iterator[Rebuilt]:
    """One package at each of its k."""
    try:
        python = python_of(rival.name)
    except RuntimeError as error:
        yield Rebuilt(rival.name, "install", 0, {}, failed=str(error))
        return
    folders = [local_folder(adapter) for adapter in adapters]
    ks = ",".join(map(str, rival.ks))
    with tempfile.TemporaryDirectory() as work:
        for row in run_module(rival.module, work, ks, *folders, python=python):
            note = ", fp32 copies" if row.get("fp32_copies") else ""
            setting = f"k={row.get('k', '?')} {row.get('dtype', 'as given')}{note}"
            if "failed" in row:
                yield Rebuilt(rival.name, setting, 0, {}, failed=row["failed"])
                continue
            factors = _read(adapters, Path(row["rebuilt"]))
            yield Rebuilt(rival.name, setting, row["bytes"], factors, row["seconds"])


def _read(adapters: Sequence[Adapter], folder: Path) -> dict[str, Modules]:
    """Factors of the rebuilt files; the original's scale is folded in, lost or not."""
    result: dict[str, Modules] = {}
    for adapter in adapters:
        tensors = load_file(str(folder / f"{adapter.source.parent.name}.safetensors"))
        mine: dict[str, tuple[Floats, Floats]] = {}
        for path, module in adapter.modules.items():
            b = tensors.get(adapter.peft_key(path, "B"))
            a = tensors.get(adapter.peft_key(path, "A"))
            if b is None or a is None:  # the package dropped it
                b, a = np.zeros((module.m, 1), np.float32), np.zeros((1, module.n), np.float32)
            mine[path] = (b * np.float32(module.scale), a)
        result[adapter.name] = mine
    return result
