"""Rules of a collection's core for coding tasks: fit, options and the price of a bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydraopt.adapters import Adapter
from hydraopt.adapters.bases import base_key
from hydraopt.bundle.reader import Bundle
from hydraopt.engines.engine import Engine
from hydraopt.errors import AlignmentError, BaseMismatchError, UsageError, explain
from hydraopt.merging.budget import Limit
from hydraopt.merging.frozen import MiddlePrice
from hydraopt.merging.options import DEFAULT_MEASURE, MergeOptions
from hydraopt.merging.recipe import forms_in
from hydraopt.progress import Progress

__all__ = [
    "check_fits",
    "check_has_core",
    "check_modules",
    "keeps_all",
    "no_such_module",
    "options_in",
    "price_of",
]


def check_fits(core: Bundle, adapter: Adapter, same_base: bool) -> None:
    """Raise an error for an adapter that does not fit the core, or for a bundle without one.

    Raises BaseMismatchError for another base model, and UsageError without a core.
    """
    check_has_core(core)
    ours = core.base_model
    names = [base_key(name) if name else None for name in (adapter.base_model, ours)]
    if names[0] != names[1] and not same_base:
        raise BaseMismatchError(
            explain(
                "the adapter belongs to another base model",
                adapter=adapter.name,
                got=adapter.base_model or "(not stated)",
                expected=ours or "(not stated)",
                do="If it is the same one under another name, say so: --same-base",
            )
        )


def check_modules(core: Bundle, adapter: Adapter) -> None:
    """Raise AlignmentError for a module whose path the core lacks."""
    known = {module.path for module in core.manifest.modules}
    for path in sorted(adapter.modules):
        if path not in known:
            raise no_such_module(core, adapter, path)


def no_such_module(
    core: Bundle, adapter: Adapter, path: str, got: str | None = None, expected: str | None = None
) -> AlignmentError:
    """Return the error for a module that the core lacks, or has with another kind or shape.

    got, expected: kind and shape.
    """
    return AlignmentError(
        explain(
            "the core has no such module",
            adapter=adapter.name,
            file=core.path,
            module=path,
            got=got,
            expected=expected,
            do="Merge all adapters anew, this one with them",
        )
    )


def check_has_core(bundle: Bundle) -> None:
    """Raise UsageError for what a method of the literature made."""
    if "method" in bundle.recipe:
        raise UsageError(
            explain(
                "what a method of the literature made has no core",
                file=bundle.path,
                got=f"method {bundle.recipe['method']}",
                do="Run the method on all adapters anew",
            )
        )


def keeps_all(limit: Limit, core: Bundle) -> bool:
    """Return whether adapters are kept bit by bit over this core: on request, or as its own are."""
    free = limit.name is None
    return limit.lossless or (free and core.recipe.get("limit") == "lossless")


def price_of(bundle: Bundle, do: str) -> MiddlePrice:
    """Return the price that the bundle's merge arrived at.

    Raises UsageError, with ``do`` as advice, if its recipe states none.
    """
    price = MiddlePrice.in_recipe(bundle.recipe)
    if price is None:
        raise UsageError(
            explain(
                "the collection does not say at which price it was made", file=bundle.path, do=do
            )
        )
    return price


def options_in(
    recipe: Mapping[str, Any], workers: int | Engine | None, progress: Progress | None
) -> MergeOptions:
    """Return the options of a merge with the recipe's measure and forms, or the default ones.

    Raises UsageError for an unknown measure.
    """
    measure = recipe.get("measure")
    return MergeOptions(
        measure=measure if isinstance(measure, str) else DEFAULT_MEASURE,
        forms=forms_in(recipe),
        workers=workers,
        progress=progress,
    )
