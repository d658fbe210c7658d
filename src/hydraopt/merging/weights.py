"""Weights of squared error, by task and by module.

An error E of content c in module i costs ``w_c s_ci |E|^2`` (times the measure's factor for its
kind). ``task_weights`` gives w, from the user's choice and the size of a task's dW;
``module_weights`` gives s, from measured sensitivity or from defaults for the kind of module. A
pass takes their product, (contents, modules). Only ratios matter to the planner; s leaves a
content's total weight, over its own dW, as it was.

Not every item (module or coded tensor) is a dW of its own. ``counting`` converts an error of each
item into units of an error of dW:
- a factor of a product (LoHa, LoKr, Tucker's convolutions), low rank or whole: its relative error
  is one of the product;
- a tensor of another tuner: the same, of all tensors of its name together;
- a tensor that scales or shifts a module's outputs (a DoRA magnitude, a bias): squared errors add
  up;
- a tensor that replaces the base model's own (a head, an embedding): its relative error counts
  OF_THE_WHOLE times, unless the base model's tensor is available and the change is a dW.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hydraopt.adapters import (
    FactorProduct,
    Held,
    RawTensor,
    factor_part,
    kept_scale,
    part_of_product,
    products,
)
from hydraopt.bundle import ModuleEntry, TaskEntry
from hydraopt.codec import OF_THE_WHOLE, Array, Measure
from hydraopt.errors import UsageError, explain
from hydraopt.merging.alignment import MergeSet, MiddlePrice
from hydraopt.notes import closest, listed, real, shown


def products_of(pieces: MergeSet, energies: Array) -> list[list[FactorProduct[int]]]:
    """Return the products of each content, as lists of items with modules first.

    energies (contents, items): squared norms.
    """
    of_tensors = {
        i: part
        for i, x in enumerate(pieces.tensors)
        if (part := part_of_product(x.key)) is not None
    }
    made: list[list[FactorProduct[int]]] = [[] for _ in energies]
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


Sensitivity = Mapping[str, Mapping[str, float]]
"""Effect on a task of a unit of squared error of a module's dW, by task and module path."""
Sensed = Sensitivity | Callable[[], Sensitivity] | None
"""A Sensitivity, or a callable that measures it on request (slow); None for no measurement."""


@dataclass(frozen=True)
class Counting:
    """Conversion of the errors of items into errors of contents.

    gains (contents, items): weight of a unit of squared error, in units of dW's.
    totals (contents,): squared norm that a content's error is relative to.
    shares (contents, modules): share of a module's squared norm that is one of dW.
    changes (contents, items): weight of a relative error of 1: for a module its squared norm, for a
        factor that of its product, for anything that is not part of dW zero.
    norms (contents,): squared norm of dW; 0 for a content that has none.
    """

    gains: Array
    totals: Array
    shares: Array
    changes: Array
    norms: Array

    @classmethod
    def even(cls, contents: int, modules: int, items: int) -> Counting:
        """Return the counting of contents whose tensors are not yet known: all ones."""
        ones, each = np.ones((contents, items)), np.ones(contents)
        return cls(ones, each, ones[:, :modules], ones, each)

    def errors(self, squared: Array) -> Array:
        """Relative errors of the contents, (contents,), from squared ones, (contents, items)."""
        errors: Array = np.sqrt(
            (self.gains * squared).sum(axis=1) / np.where(self.totals > 0, self.totals, 1.0)
        )
        return errors

    def error_of_changes(self, content: int, ratios: Array) -> float:
        """Return the relative error of a content's dW from the errors of its items, (items,)."""
        wrong = float((self.changes[content] * ratios**2).sum())
        return math.sqrt(wrong / self.norms[content]) if self.norms[content] > 0 else 0.0


def counting(pieces: MergeSet, energies: Array) -> Counting:
    """Return the counting of a merge set, see above.

    energies (contents, items): squared norms, modules first.
    """
    modules = len(pieces.modules)
    gains, shares = np.ones_like(energies), np.ones((len(energies), modules))
    changes, norms = _count_products(pieces, energies, gains, shares)
    own = np.array([entry.base is not None for entry in pieces.tensors], np.bool_)
    totals = norms + energies[:, modules:][:, own].sum(axis=1)
    # An adapter that has nothing else is judged by its tensors alone.
    totals = np.where(totals > 0, totals, (energies.sum(axis=1) > 0).astype(np.float64))
    names = [_name_of(entry.key) for entry in pieces.tensors]
    scales = _bias_scales(pieces)
    for content, total in enumerate(totals):
        others = np.where(changes[content, modules:] > 0, 0.0, energies[content, modules:])
        alike: dict[str, float] = {}
        for name, energy in zip(names, others, strict=True):
            alike[name] = alike.get(name, 0.0) + float(energy)
        for i, entry in enumerate(pieces.tensors):
            if others[i] <= 0 or own[i]:
                continue
            if entry.kind in ("tuner", "tuner_ones"):
                gain = total / alike[names[i]]
            elif entry.kind in ("saved", "token_rows") or norms[content] <= 0:
                gain = OF_THE_WHOLE * total / others[i]
            else:
                gain = scales.get((content, entry.key), 1.0) ** 2
            gains[content, modules + i] = gain
    return Counting(gains, totals, shares, changes, norms)


def _count_products(
    pieces: MergeSet, energies: Array, gains: Array, shares: Array
) -> tuple[Array, Array]:
    """Return (changes, norms) of a Counting, and set gains and shares of factors of products."""
    modules = len(pieces.modules)
    changes, norms = np.zeros_like(energies), np.zeros(len(energies))
    changes[:, :modules] = energies[:, :modules]
    for content, found in enumerate(products_of(pieces, energies)):
        for product in found:
            items = np.array(product.items)
            changes[content, items] = product.energy
            gains[content, items] = product.energy / energies[content, items]
            factors = items[items < modules]
            shares[content, factors] = gains[content, factors] / max(factors.size, 1)
            norms[content] += 0.0 if factors.size else product.energy
    return changes, norms + (energies[:, :modules] * shares).sum(axis=1)


def _name_of(key: str) -> str:
    """Return a tensor's name within any module: "ia3_l", "vera_lambda_b", "oft_R.weight"."""
    names = [name for name in key.split(".") if not name.isdecimal()]
    return ".".join(names[-2:] if names[-1] in ("weight", "bias") else names[-1:])


def _bias_scales(pieces: MergeSet) -> dict[tuple[int, str], float]:
    return {
        (task.content, key): scale
        for task in pieces.tasks
        if task.content is not None
        for key, scale in task.bias_scales.items()
    }


@dataclass(frozen=True)
class Weights:
    """by_task (contents,), by_item (contents, items): an error costs their product."""

    by_task: Array
    by_item: Array
    counting: Counting

    @property
    def whole(self) -> Array:
        """Product of both weights, (contents, items)."""
        return self.by_task[:, None] * self.by_item


def weights_of(
    pieces: MergeSet, energies: Array, measure: Measure, importance: Array, seen: Sensitivity
) -> Weights:
    """Return the weights of all items.

    energies: (contents, items), squared norms, modules first.

    Raises UsageError as :func:`module_weights`.
    """
    counted, modules = counting(pieces, energies), len(pieces.modules)
    by_item = counted.gains.copy()
    own = energies[:, :modules] * counted.shares
    by_item[:, :modules] *= module_weights(pieces, own, measure, seen)
    by_task = task_weights(counted.totals[:, None], importance, measure, pieces.norm)
    return Weights(by_task, by_item, counted)


def sensed(sensitivity: Sensed) -> Sensitivity:
    """Return the sensitivity, measured now if it is a callable."""
    return (sensitivity() if callable(sensitivity) else sensitivity) or {}


def importances(pieces: MergeSet, given: Mapping[str, float]) -> Array:
    """Return (contents,), sums over tasks that share a content; 1 for a task that is not given.

    Raises UsageError as :func:`check_importance` does.
    """
    check_importance([task.name for task in pieces.tasks], given)
    importance = np.zeros(pieces.contents)
    for task in pieces.tasks:
        if task.content is not None:
            importance[task.content] += float(given.get(task.name, 1.0))
    return importance


def check_importance(names: Sequence[str], given: Mapping[str, float]) -> None:
    """Raise UsageError for tasks that are not among the names, and for numbers below or at zero."""
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise UsageError(
            explain(
                "weight for a task that was not found",
                got=listed(unknown),
                expected=closest(unknown, names),
            )
        )
    for name, value in given.items():
        if _positive(value) is None:
            got = f"{name}={shown(value)}"
            raise UsageError(explain("a weight must be positive", got=got, expected="a number"))


def _positive(value: object) -> float | None:
    """Return a weight as a float; None if it is not a positive number."""
    number = real(value)
    return number if number is not None and 0 < number < math.inf else None


def task_weights(
    energies: Array, importance: Array, measure: Measure, norm: float | None = None
) -> Array:
    """Return ``w_c = importance_c / |dW_c|^(2 relative)``, (contents,).

    energies: (contents, modules), squared Frobenius norms. In all the weights are as if relative
    errors counted, so that a price means the same in every measure. norm: with the |dW| of a middle
    task given, a weight depends on its own task alone, and a middle one's is as if its relative
    error counted.
    """
    norms = np.sqrt(energies.sum(axis=1))
    some = norms > 0
    if not some.any():
        return importance
    norms = np.where(some, norms, 1.0)
    weights: Array = importance * _by_size(norms, norm or np.median(norms[some]), measure)
    if norm is None:
        weights *= importance[some].sum() / (weights[some] @ norms[some] ** 2)
    return weights


def _by_size(norms: Array, middle: float, measure: Measure) -> Array:
    """Return the weights of tasks of these norms, (contents,), of the importance 1."""
    size = np.clip(norms / middle, 1 / measure.farthest, measure.farthest)
    weights: Array = size ** (2 - 2 * measure.relative) / norms**2
    return weights


def middle_price(
    price: float, weights: Array, energies: Array, counted: Counting, measure: Measure
) -> MiddlePrice | None:
    """Return the price for a task of the middle size; None if no task changes anything.

    weights (contents, items): cost of squared errors.
    energies (contents, items): squared norms.
    If tasks have their own prices, the median one counts.
    """
    own = (counted.gains * energies).sum(axis=1)
    some = (own > 0) & (counted.totals > 0)
    if not some.any():
        return None
    norms = np.sqrt(counted.totals[some])
    by_task = (weights * energies).sum(axis=1)[some] / own[some]
    middle = float(np.median(norms))
    prices = price * _by_size(norms, middle, measure) / by_task
    return MiddlePrice(float(np.median(prices)), middle)


def module_weights(pieces: MergeSet, energies: Array, measure: Measure, seen: Sensitivity) -> Array:
    """Return the weights of modules, (contents, modules).

    They are a task's sensitivities, if given, or else the measure's weights for the kind of module.

    Raises UsageError for unknown tasks, for modules that are left out and for numbers that are not
    positive.
    """
    unknown = sorted(set(seen) - {task.name for task in pieces.tasks})
    if unknown:
        raise UsageError(
            explain("sensitivity for a task that was not found", got=", ".join(unknown))
        )
    weights = np.tile(_expected(pieces.modules, measure), (pieces.contents, 1))
    for task in pieces.tasks:
        mine = seen.get(task.name)
        if mine is None or task.content is None:
            continue
        for index in task.modules:
            path = pieces.modules[index].path
            value = _positive(mine.get(path, 0.0))
            if value is None:
                raise UsageError(
                    explain(
                        f"sensitivity of {task.name} must be a positive number for each module",
                        module=path,
                        got=shown(mine[path]) if path in mine else "nothing",
                    )
                )
            weights[task.content, index] = value
    totals = energies.sum(axis=1)
    weighed = (weights * energies).sum(axis=1)
    weights *= np.where(weighed > 0, totals / np.where(weighed > 0, weighed, 1.0), 1.0)[:, None]
    return weights


def _expected(modules: tuple[ModuleEntry, ...], measure: Measure) -> Array:
    """Return the measure's weight of each module, (modules,), from its name and height alone.

    Keys and values that several query heads share count as often: that is ``m_q / m_k``.
    """
    heights = {module.path: module.m for module in modules}
    weights = np.ones(len(modules))
    for index, module in enumerate(modules):
        parent, _, name = module.path.rpartition(".")
        weights[index] = measure.kinds.get(name, 1.0)
        if name in measure.grouped:
            queries = heights.get(f"{parent}.q_proj", module.m)
            weights[index] *= max(queries / module.m, 1.0)
    return weights
