"""Plans of all modules at a row of prices: a guess of size against error. Nothing is coded."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np

from hydraopt.coding.forms import FORMS
from hydraopt.compress.core import CoreStore
from hydraopt.compress.dense import estimate_tensor
from hydraopt.compress.estimate import guess_module
from hydraopt.compress.measure import measure_named
from hydraopt.compress.plan import modes_of
from hydraopt.linalg.shapes import Array
from hydraopt.merging.align import MergeSet
from hydraopt.merging.budget import Size
from hydraopt.merging.draft import Draft
from hydraopt.merging.outcome import Job
from hydraopt.merging.recipe import MergeRecipe
from hydraopt.merging.weights import importances, weights_of
from hydraopt.progress import Progress

__all__ = ["Walk"]

_PERMITTED: Final = (tuple(FORMS), ("private",))


def _of_tensors(pieces: MergeSet) -> Array:
    """Squared norms of the coded tensors, (contents, tensors)."""
    energies = np.zeros((pieces.contents, len(pieces.matrices)))
    for index, tensor in enumerate(pieces.matrices):
        energies[list(tensor.contents), index] = tensor.squared_norms()
    return energies


class Walk:
    """Plans every module of a merge set at a price.

    energies: squared norms of what the modules hold, (contents, modules). measure: whose plans
    these are.
    """

    def __init__(
        self, pieces: MergeSet, store: CoreStore, energies: Array, measure: str, report: Progress
    ) -> None:
        self._pieces, self._store, self._report = pieces, store, report
        self._measure = measure_named(measure)
        dense = _of_tensors(pieces)
        importance = importances(pieces, {})
        weights = weights_of(
            pieces, np.concatenate([energies, dense], axis=1), self._measure, importance, {}
        )
        self._weights, self._counting = weights.whole, weights.counting
        self.squares: Array = energies * self._counting.shares
        """|dW|^2, (contents, modules)."""
        # Of tensors alone no error is guessed; of what changes nothing it is 0, as in a merge.
        self.judged = (energies.sum(axis=1) > 0) | (dense.sum(axis=1) <= 0)
        """Whose errors are guessed, (contents,)."""
        self._importance = importance * self.judged
        recipe = MergeRecipe(measure, Size.name, 0, tuple(FORMS))
        empty = Draft.empty(self._weights, self._counting)
        self._fixed = Job.of(pieces, recipe).packed(empty).size

    def _tensor_bits(self, price: float) -> float:
        """Of the coded tensors; their errors are not guessed."""
        bits = 0.0
        for index, tensor in enumerate(self._pieces.matrices, len(self._store)):
            weights = self._weights[list(tensor.contents), index].tolist()
            bits += estimate_tensor(tensor.read, tensor.shape, weights, price)
        return bits

    def at(self, price: float, alone: bool = True) -> tuple[dict[str, Any], Array, Array, Array]:
        """(point, costs, bits, errors) at ``price``: the last is the relative error of each
        content, (contents,), that of its modules alone. alone: the private form alone is planned as
        well."""
        count = len(self._store)
        costs, bits = np.zeros((count, 2)), np.zeros((count, 2))
        errors = np.zeros((2, *self._weights.shape))
        forms = Counter[str]()
        for index in range(count):
            core = self._store.core(index)
            weights = [float(self._weights[c, index]) for c in core.contents]
            for which, permitted in enumerate(_PERMITTED[: 1 + alone]):
                guess = guess_module(core, weights, price, self._measure, modes_of(permitted))
                costs[index, which], bits[index, which] = guess.cost, guess.bits
                errors[which, list(core.contents), index] = guess.errors
                if which == 0:
                    forms.update(
                        task.mode.form if task.left.size else "nothing" for task in guess.plan.tasks
                    )
            self._report(f"guessing at price {price:.1e}", index + 1, count)
        relative = np.stack([self._counting.errors(squared) for squared in errors])
        mean = relative @ self._importance / self._importance.sum()
        more = self._tensor_bits(price)
        sizes = [self._fixed + round((float(x) + more) / 8) for x in bits.sum(axis=0)]
        point = {
            "price": price,
            "bytes": sizes[0],
            "fraction": sizes[0] / self._pieces.fp16_bytes,
            "error": float(mean[0]),
            "worst_error": float(relative[0].max()),
            "forms": dict(sorted(forms.items())),
            "private_bytes": sizes[1],
            "private_fraction": sizes[1] / self._pieces.fp16_bytes,
            "private_error": float(mean[1]),
        }
        return point, costs, bits, relative[0]
