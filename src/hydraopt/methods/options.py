"""Limits of the methods' options: one table, by the option's name, for all methods.

An option has the same meaning in every method, so its limits are stated once. Limits that depend on
other options or on the tasks are checked where these are available.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from hydraopt.errors import UsageError, explain
from hydraopt.values import real, shown

__all__ = ["OPTIONS", "Limits", "check_option"]


@dataclass(frozen=True)
class Limits:
    """Limits of one option.

    kind: "int", "float" or "bool"; a bool is not a number.
    least, most: the range, both ends included unless ``above``, which excludes ``least``.
    label: its name in messages, if another one.
    """

    kind: str
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    label: str = ""

    @property
    def expected(self) -> str:
        """The limits in words."""
        if self.kind == "bool":
            return "true or false"
        words = "a whole number" if self.kind == "int" else "a finite number"
        if self.least > -math.inf:
            words += f", {'above' if self.above else 'at least'} {self.least}"
        return words + (f", at most {self.most}" if self.most < math.inf else "")

    def read(self, value: object) -> int | float | bool | None:
        """``value`` as Python's own int, float or bool, in or out of range; None for other kinds.

        A number that float64 does not hold reads as infinity.
        """
        if self.kind == "bool":
            return bool(value) if isinstance(value, bool | np.bool_) else None
        if self.kind == "int":
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            return int(value) if whole else None  # type: ignore[call-overload]
        return real(value)

    def hold(self, number: float) -> bool:
        """Return whether a number from :meth:`read` lies in the range."""
        if self.kind == "float" and not math.isfinite(number):
            return False
        return (self.least < number if self.above else self.least <= number) and number <= self.most


# No module is that large, and every reader of a manifest can take it.
_COUNT: Final = Limits("int", 1, 10**9)
# More would be no better, and a slip of the keyboard would run for days.
_LARGE: Final = 10**6

OPTIONS: Final[Mapping[str, Limits]] = {
    "rank": _COUNT,
    "block": _COUNT,
    "heads": replace(_COUNT, label="number of heads"),
    "clusters": replace(_COUNT, label="number of clusters"),
    "starts": Limits("int", 1, _LARGE),
    "steps": Limits("int", 0, _LARGE),
    # Philox takes keys of 64 bits.
    "seed": Limits("int", 0, 2**64 - 1),
    "rate": Limits("float", 0, above=True),
    "density": Limits("float", 0, 1, above=True),
    "epsilon": Limits("float", 0),
    "beta": Limits("float", 0, 1),
    "gamma": Limits("float", 0, 1),
    "t": Limits("float", 0, 1),
    "lam": Limits("float"),
    "scales": Limits("bool"),
    "reweight": Limits("bool"),
}
"""Limits of each option except ``weights`` and ``inner_scales``, which have values per task."""


def check_option(name: str, value: Any, default: Any = inspect.Parameter.empty) -> Any:
    """``value`` as Python's own number or switch; None where that is the default.

    name: a key of :data:`OPTIONS`. default: of the option, empty where it has none. Raises
    UsageError for values of another kind and for those out of range.
    """
    if value is None and default is None:
        return None
    limits = OPTIONS[name]
    read = limits.read(value)
    if read is not None and limits.hold(read):
        return read
    what = "is out of range" if read is not None else f"is not {limits.expected.split(',')[0]}"
    do = None
    if default is not inspect.Parameter.empty:
        usual = "that of the method" if default is None else default
        do = f"Leave it out for the default, {usual}"
    raise UsageError(
        explain(f"{limits.label or name} {what}", got=shown(value), expected=limits.expected, do=do)
    )
