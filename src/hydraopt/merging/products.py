"""Find the items of a merge set that are factors of one product, and its norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from hydraopt.adapters.products import (
    Held,
    Product,
    factor_part,
    kept_scale,
    part_of_product,
    products,
)
from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.bundle.spec import TaskEntry
from hydraopt.linalg.shapes import Array
from hydraopt.merging.align import MergeSet

__all__ = ["products_of"]


def products_of(pieces: MergeSet, energies: Array) -> list[list[Product[int]]]:
    """Return the products of each content, as lists of items with modules first.

    energies (contents, items): squared norms.
    """
    of_tensors = {
        i: part
        for i, x in enumerate(pieces.tensors)
        if (part := part_of_product(x.key)) is not None
    }
    made: list[list[Product[int]]] = [[] for _ in energies]
    if not of_tensors and all(module.layout != "factor" for module in pieces.modules):
        return made
    for task, carried in zip(pieces.tasks, pieces.carried, strict=True):
        if task.content is None or made[task.content]:
            continue
        scale_of = partial(_scale, pieces.configs[task.config], carried)
        held = _held(pieces, task, energies[task.content], of_tensors)
        every = products([*held, *_kept(carried)], scale_of)
        made[task.content] = [product for product in every if product.items]
    return made


def _scale(
    config: Mapping[str, Any], kept: Mapping[str, RawTensor], stem: str, rank: int | None
) -> float:
    return kept_scale(config, stem, rank, kept.get(f"{stem}.alpha"))


def _held(
    pieces: MergeSet, task: TaskEntry, energies: Array, of_tensors: Mapping[int, tuple[str, str]]
) -> Iterator[Held[int]]:
    """Yield the coded factors of products."""
    for i in task.modules:
        module = pieces.modules[i]
        if module.layout == "factor":
            part, shape = factor_part(module.path, module.group), (module.m, module.n)
            yield Held(i, module.stem, part, shape, float(energies[i]))
    for i in task.tensors:
        if i in of_tensors:
            matrix, item = pieces.matrices[i], len(pieces.modules) + i
            tensor = matrix.tensors[matrix.contents.index(task.content)]
            energy = float(energies[item])
            yield Held(item, *of_tensors[i], tensor.shape, energy, tensor.float64)


def _kept(carried: Mapping[str, RawTensor]) -> Iterator[Held[int]]:
    """Yield the factors of products that are stored bit by bit."""
    for key, tensor in carried.items():
        if (part := part_of_product(key)) is not None:
            energy = float(np.sum(tensor.float64() ** 2))
            yield Held(None, *part, tensor.shape, energy, tensor.float64)
