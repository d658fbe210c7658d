"""Measured effect of coding on a task's answers, and its representation in the manifest.

A task's answers are the original adapter's own greedy ones; docs/reference/format.md is the
normative text for the stored values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hydraopt.bundle.strictjson import amount, check, natural

__all__ = [
    "ANSWER_TOKENS",
    "MOST_ANSWER_TOKENS",
    "Harm",
    "check_harm",
    "harm_from_json",
    "harm_to_json",
]

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
        _share(self.likely, "likely share of answers that change")
        amount(self.kl, "KL an answer")
        check(type(self.held_out) is bool, "held_out of a harm", self.held_out, "true or false")

    def snapped(self) -> Harm:
        """Return the harm at the manifest's precision: ``likely`` and ``kl`` to three digits."""
        likely, kl = (float(f"{x:.3g}") for x in (self.likely, self.kl))
        return Harm(self.changed, self.answers, likely, kl, self.held_out)


def check_harm(harm: Any, where: str) -> Harm | None:
    """Return a task's harm, snapped; raise BundleFormatError unless it is a Harm or None."""
    check(harm is None or isinstance(harm, Harm), f"harm of {where}", harm, "a Harm or None")
    return None if harm is None else harm.snapped()


# --- in the manifest --------------------------------------------------------------------------


def harm_to_json(harm: Harm | None) -> list[Any] | None:
    """Convert a harm to JSON values; :func:`harm_from_json` is the inverse."""
    if harm is None:
        return None
    return [harm.changed, harm.answers, harm.likely, harm.kl, harm.held_out]


def harm_from_json(value: Any) -> Harm | None:
    """Convert JSON values to a harm; raise BundleFormatError for anything else."""
    if value is None:
        return None
    shape = "[changed, answers, likely, kl, held_out]"
    check(isinstance(value, list) and len(value) == 5, "harm of a task", value, shape)
    return Harm(*value)


def _share(value: Any, what: str) -> None:
    fine = isinstance(value, float | int) and type(value) is not bool and 0 <= value <= 1
    check(fine, what, value, "0 to 1")
