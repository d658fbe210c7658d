"""Queries about a bundle's recipe; hydraopt.merging.recipe defines its contents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydraopt.bundle.harm import ANSWER_TOKENS, MOST_ANSWER_TOKENS

__all__ = ["answer_tokens_in", "states_estimates"]


def answer_tokens_in(recipe: Mapping[str, Any]) -> int:
    """Return the recipe's maximum number of judged tokens per answer, or the usual number."""
    value = recipe.get("answer_tokens")
    return value if type(value) is int and 0 < value <= MOST_ANSWER_TOKENS else ANSWER_TOKENS


def states_estimates(recipe: Mapping[str, Any]) -> bool:
    """Return True if the errors in the manifest are estimates, as after shrink."""
    return bool(recipe.get("errors") == "estimated")
