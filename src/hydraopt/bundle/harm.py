"""Measured effect of coding on a task's answers.

A task's answers are the original adapter's own greedy ones; docs/reference/format.md is the
normative text for the stored values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hydraopt.bundle.strictjson import amount, check, natural

__all__ = ["ANSWER_TOKENS", "MOST_ANSWER_TOKENS", "Harm", "answer_tokens_in", "states_estimates"]

ANSWER_TOKENS: Final = 128
"""Default maximum number of tokens per answer that are judged."""
MOST_ANSWER_TOKENS: Final = 1024
"""Largest number of tokens per answer that can be judged."""
MAX_ANSWERS: Final = 10**9


@dataclass(frozen=True, slots=True)
class Harm:
    """Effect of a task's coded weights on the answers of its original adapter.

    changed: number of answers in which some token is no longer the most likely one.
    answers: number of measured answers, at least 1.
    likely: expected share of answers that change, 0 to 1; it is finer than the count.
    kl: KL(original || coded), nats per answer.
    held_out: True if nothing was trained on any of the answers. A refit may still have used them to
    choose where to stop.

    Raises BundleFormatError for other values.
    """

    changed: int
    answers: int
    likely: float
    kl: float
    held_out: bool

    def __post_init__(self) -> None:
        natural(self.answers, "answers of a harm", 1, MAX_ANSWERS)
        natural(self.changed, "answers that change", 0, self.answers)
        amount(self.likely, "likely share of answers that change")
        check(self.likely <= 1, "likely share of answers that change", self.likely, "0 to 1")
        amount(self.kl, "KL an answer")
        check(type(self.held_out) is bool, "held_out of a harm", self.held_out, "true or false")

    def snapped(self) -> Harm:
        """Return the harm at the manifest's precision: ``likely`` and ``kl`` to three digits."""
        likely, kl = (float(f"{x:.3g}") for x in (self.likely, self.kl))
        return Harm(self.changed, self.answers, likely, kl, self.held_out)


# --- in a recipe, whose contents hydraopt.merging.recipe defines ------------------------------


def answer_tokens_in(recipe: Mapping[str, Any]) -> int:
    """Return the recipe's maximum number of judged tokens per answer, or the usual number."""
    value = recipe.get("answer_tokens")
    return value if type(value) is int and 0 < value <= MOST_ANSWER_TOKENS else ANSWER_TOKENS


def states_estimates(recipe: Mapping[str, Any]) -> bool:
    """Return True if the errors in the manifest are estimates, as after shrink."""
    return bool(recipe.get("errors") == "estimated")
