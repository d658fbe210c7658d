"""Record in the manifest how a bundle was made (the recipe)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from hydraopt.bundle.harm import ANSWER_TOKENS
from hydraopt.coding.forms import FORMS
from hydraopt.errors import UsageError
from hydraopt.merging.budget import HarmLimit

__all__ = [
    "Recipe",
    "forms_in",
    "harm_limit_in",
    "merge_recipe",
    "method_recipe",
    "refresh_recipe",
    "shrink_recipe",
]

Recipe = Mapping[str, Any]
"""Recipe as the manifest stores it."""

_LOOKED: Final = ("sensitivity", "judged")
"""Recipe keys that count tasks measured with the base model."""
_TRAINED: Final = ("refit",)
"""Keys that count tasks whose parts were trained; a refresh from coded tasks keeps them."""


def merge_recipe(
    measure: str,
    limit: str,
    value: float,
    forms: Sequence[str] = tuple(FORMS),
    fair: bool = False,
    *,
    unit: str = "",
    sensitivity: int = 0,
    judged: int = 0,
    refit: int = 0,
    answer_tokens: int = ANSWER_TOKENS,
) -> Recipe:
    """Return the recipe of a merge by hydraopt's own coder.

    limit, value: the budget's name ("size", "error", "max-error", "harm", or "lossless") and its
        limit.
    unit: of the value, where it has one.
    sensitivity: number of tasks whose modules were weighted by their effect on the base model.
    judged: number of tasks whose harm was measured on their own greedy answers, teacher-forced.
    refit: number of tasks whose coded parts were trained to keep these answers.
    answer_tokens: maximum number of judged tokens per answer; written only if not the default.
    """
    recipe = {
        "measure": measure,
        "fair": fair,
        "forms": list(forms),
        "limit": limit,
        "value": value,
    }
    steps = {"unit": unit, "sensitivity": sensitivity, "judged": judged, "refit": refit}
    steps["answer_tokens"] = answer_tokens if answer_tokens != ANSWER_TOKENS else 0
    return recipe | {key: x for key, x in steps.items() if x}


def shrink_recipe(before: Recipe, measure: str, limit: str, value: float) -> Recipe:
    """Return the recipe of a shrink: that of the bundle ``before`` it, as far as it holds on."""
    kept = _unfair(_without(before, ("unit", *_LOOKED)))
    changes = {"measure": measure, "limit": limit, "value": value}
    return {**kept, **changes, "shrunk": True, "errors": "estimated"}


def refresh_recipe(before: Recipe, limit: str | None, value: float | None, decoded: bool) -> Recipe:
    """Return the recipe of a new core: that of the bundle ``before`` it, as far as it holds on.

    limit, value: of a new limit; None if the price stayed.
    decoded: whether tasks were coded again from what the bundle held, so that their errors are
        estimates.
    """
    # Every task is coded again, by errors alone: nobody looks at answers.
    recipe = {**_unfair(_without(before, _LOOKED)), "refreshed": True}
    if limit is not None:
        recipe = {**_without(recipe, ("unit",)), "limit": limit, "value": value}
    elif recipe.get("limit") == "harm":  # nobody knows any more whether it is kept
        recipe = _without(recipe, ("limit", "value", "unit"))
    if decoded:
        return {**recipe, "errors": "estimated"}
    # Coded from the originals, nothing is left of what was done to parts before.
    return _without(recipe, ("errors", "shrunk", *_TRAINED))


def method_recipe(method: str, options: Mapping[str, Any], dtype: str) -> Recipe:
    """Return the recipe of a method of the literature. dtype: of the numbers that it made."""
    return {"method": method, "options": dict(options), "dtype": dtype, "limit": "lossless"}


def harm_limit_in(recipe: Recipe) -> HarmLimit | None:
    """Return the limit on harm that a bundle was merged with; None if it had another one."""
    value = recipe.get("value")
    if recipe.get("limit") != HarmLimit.name or type(value) is not float:
        return None
    for shares in (True, False):
        with suppress(UsageError):  # a manifest may state any number
            limit = HarmLimit(value, shares)
            if limit.unit == recipe.get("unit"):
                return limit
    return None


def forms_in(recipe: Recipe) -> tuple[str, ...]:
    """Return the forms that a recipe permits, or all."""
    named = recipe.get("forms")
    forms = tuple(form for form in FORMS if form in named) if isinstance(named, list) else ()
    return forms or tuple(FORMS)


def _unfair(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe without fairness, if it states any."""
    return {key: value if key != "fair" else False for key, value in recipe.items()}


def _without(recipe: Recipe, keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key not in keys}
