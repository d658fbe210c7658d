"""The one limit that a user sets, on bytes, error or harm, and its record in the manifest.

The search for the price of a bit that meets one is in :mod:`hydraopt.merging.search`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from hydraopt.bundle import ANSWER_TOKENS, Harm
from hydraopt.codec import FORMS, Array
from hydraopt.errors import UsageError, explain
from hydraopt.notes import real, shown

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


def _written(limit: object) -> str:
    """Return a limit as text for parsing."""
    try:
        return str(limit).lower()
    except ValueError:
        return shown(limit)


def parse_size(text: str | int, fp16_bytes: int) -> int:
    """Return bytes of "5%" (of the fp16 bytes), "3MB" (10^6), "3MiB" (2^20) or a plain number.

    Raises UsageError for anything else, and for less than a byte.
    """
    written = _written(text)
    if not fp16_bytes and "%" in written:
        raise UsageError(
            explain(
                "a share needs something to be a share of",
                got=shown(text),
                expected="800KB, 3MB, 2MiB or bytes",
            )
        )
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*(%|[a-z]*)\s*", written)
    if match and (match[2] == "%" or match[2] in _UNITS):
        number = float(match[1])
        size = number / 100 * fp16_bytes if match[2] == "%" else number * _UNITS[match[2]]
        if 1 <= size < math.inf:  # a bare 0.05 is no size
            return int(size)
    raise UsageError(
        explain("cannot read the size", got=shown(text), expected="5%, 800KB, 3MB, 2MiB or bytes")
    )


@dataclass(frozen=True)
class Size:
    """At most ``limit`` bytes of the whole file."""

    limit: int
    name: ClassVar[str] = "size"


@dataclass(frozen=True)
class _ErrorBudget:
    """Limit on relative Frobenius errors, in (0, 1), as a float, which is what a recipe holds.

    Raises UsageError for any other.
    """

    limit: float
    name: ClassVar[str]

    def __post_init__(self) -> None:
        limit = real(self.limit)
        if limit is None or not 0 < limit < 1:
            got = shown(self.limit)
            raise UsageError(
                explain(f"--{self.name} is a fraction", got=got, expected="between 0 and 1")
            )
        object.__setattr__(self, "limit", limit)


@dataclass(frozen=True)
class MeanError(_ErrorBudget):
    """At most ``limit``, the mean of the tasks' relative errors."""

    name: ClassVar[str] = "error"

    def of(self, errors: Array) -> float:
        """Return the limited value from the relative errors of the tasks, (tasks,)."""
        return float(np.mean(errors))


@dataclass(frozen=True)
class WorstError(_ErrorBudget):
    """At most ``limit``, the relative error of the worst task."""

    name: ClassVar[str] = "max-error"

    def of(self, errors: Array) -> float:
        """Return the limited value from the relative errors of the tasks, (tasks,)."""
        return float(np.max(errors))


@dataclass(frozen=True)
class HarmLimit:
    """Limit on the harm to each task, measured on prompts.

    limit: share of answers that change, in (0, 1), if ``shares``; else KL in nats an answer,
        above 0.
    Raises UsageError for other limits.
    """

    limit: float
    shares: bool = True
    name: ClassVar[str] = "harm"

    def __post_init__(self) -> None:
        if not 0 < self.limit < (1 if self.shares else math.inf):
            wanted = (
                "more than 0 % and less than 100 %" if self.shares else "a finite number above 0"
            )
            raise UsageError(
                explain("the limit on harm is out of range", got=self.text, expected=wanted)
            )

    @property
    def counted(self) -> str:
        """Kind of harm that is limited: "answers" that change, or "nats"."""
        return "answers" if self.shares else "nats"

    @property
    def unit(self) -> str:
        """Unit of the limit."""
        return "share of answers" if self.shares else "nats an answer"

    @property
    def text(self) -> str:
        """Limit in the notation of the command line."""
        return f"{100 * self.limit:g}%" if self.shares else f"{self.limit:g}nats"

    @property
    def words(self) -> str:
        """Limit in words, for example "1 % of each task's answers may change"."""
        if self.shares:
            return f"{100 * self.limit:g} % of each task's answers may change"
        return f"{self.limit:g} nats of KL an answer"

    def is_kept_by(self, harm: Harm) -> bool:
        """Return whether a measured harm is within the limit, without a margin for chance."""
        return (harm.likely if self.shares else harm.kl) <= self.limit

    def describe(self, harm: float) -> str:
        """Return a measured harm in words."""
        if not self.shares:
            return f"{harm:.2g} nats an answer"
        share = 100 * harm
        return f"{share:.2g} % of the answers" if share < 99.5 else "all of the answers"


_HARMS = "a number with its unit: 1% of a task's answers, or 0.01nats of KL an answer"


def parse_harm(text: str) -> HarmLimit:
    """Parse "1%" (answers that change) or "0.01nats" (KL an answer). Raises UsageError."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(%|nats)\s*", _written(text))
    if not match:
        raise UsageError(explain("cannot read the harm", got=shown(text), expected=_HARMS))
    shares = match[2] == "%"
    return HarmLimit(float(match[1]) / (100 if shares else 1), shares)


Budget = Size | MeanError | WorstError


@dataclass(frozen=True)
class Limit:
    """Limit as a user gives it: one at most. Without any, the caller's default applies.

    size: "5%" of the inputs' fp16 bytes, "3MB" or a number of bytes, for all that is written.
    error (0 to 1): mean relative Frobenius error of the tasks.
    harm: "1%" of each task's answers may change, or "0.01nats" of KL an answer. Needs a judge.
    lossless: whether every tensor comes back bit for bit.
    max_error (0 to 1): relative Frobenius error of the worst task.

    Raises UsageError for more than one.
    """

    size: str | int | None = None
    error: float | None = None
    harm: str | None = None
    lossless: bool = False
    max_error: float | None = None

    def __post_init__(self) -> None:
        if len(self._given) > 1:
            raise UsageError(
                explain("more than one limit", got=", ".join(self._given), expected="one at most")
            )

    @property
    def _given(self) -> list[str]:
        limits = {"size": self.size, "error": self.error, "max-error": self.max_error}
        limits |= {"lossless": self.lossless or None, "harm": self.harm}
        return [name for name, value in limits.items() if value is not None]

    @property
    def name(self) -> str | None:
        """Name of the limit that was given: size, error, max-error, lossless or harm."""
        return next(iter(self._given), None)

    def budget(self, fp16_bytes: int) -> Budget | HarmLimit | None:
        """Return the budget for inputs of this size; None for lossless and without a limit.

        Raises UsageError for an invalid limit.
        """
        if self.size is not None:
            return Size(parse_size(self.size, fp16_bytes))
        if self.error is not None:
            return MeanError(self.error)
        if self.max_error is not None:
            return WorstError(self.max_error)
        return None if self.harm is None else parse_harm(self.harm)


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
