"""Bytes that shared forms save in each module, by the planner's estimates at one price of a bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hydraopt.coding.forms import FORMS
from hydraopt.compress.core import CoreStore
from hydraopt.compress.measure import Measure
from hydraopt.compress.plan import modes_of, plan_module
from hydraopt.compress.started import Starts
from hydraopt.inspect.summary import Saving
from hydraopt.linalg.shapes import Array
from hydraopt.merging.align import MergeSet
from hydraopt.progress import Progress

__all__ = ["savings_at"]

_PERMITTED: Final = (tuple(FORMS), ("private",))


def savings_at(
    pieces: MergeSet,
    store: CoreStore,
    weights: Array,
    price: float,
    measure: Measure,
    report: Progress,
) -> Iterator[Saving]:
    """Yield what permitting other forms than private saves in each module at a price.

    store: cores of the modules. weights: of a unit of squared error, (contents, items). saved_bytes
    is at equal cost, to first order: bytes saved plus cost saved, the latter divided by the price.
    """
    for index in range(len(store)):
        core = store.core(index)
        own = [float(weights[content, index]) for content in core.contents]
        starts = Starts(pieces.initial(pieces.modules[index].path, core.contents))
        every, private = (
            plan_module(core, own, price, measure, modes_of(forms), None, starts)
            for forms in _PERMITTED
        )
        saved = (private.total - every.total) / price
        yield Saving(
            every.bits / 8,
            private.bits / 8,
            saved / 8,
            saved / private.bits if private.bits else 0.0,
        )
        report("planning", index + 1, len(store))
