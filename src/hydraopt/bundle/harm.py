"""Measured effect of coding on a task's answers, and its representation in the manifest.

A task's answers are the original adapter's own greedy ones; docs/reference/format.md is the
normative text for the stored values.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from hydraopt.bundle.strictjson import amount, bad, check, code_of, error_of, natural

__all__ = [
    "ANSWER_TOKENS",
    "MAX_POINTS",
    "MOST_ANSWER_TOKENS",
    "Harm",
    "HarmPoint",
    "check_curve",
    "check_harm",
    "harm_from_json",
    "harm_to_json",
    "pack_curve",
    "thinned",
    "unpack_curve",
]

ANSWER_TOKENS: Final = 128
"""Default maximum number of tokens per answer that are judged."""
MOST_ANSWER_TOKENS: Final = 1024
"""Largest number of tokens per answer that can be judged."""
MAX_POINTS: Final = 16
MAX_ANSWERS: Final = 10**9
_TOP: Final = 8
_STEPS: Final = 8
_ZERO: Final = 255


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


@dataclass(frozen=True, slots=True)
class HarmPoint:
    """Trial encoding of a task: its relative Frobenius error, and its harm as in :class:`Harm`.

    Raises BundleFormatError for an error or a KL that is negative or not finite, and for a share
    outside 0 to 1.
    """

    error: float
    likely: float
    kl: float

    def __post_init__(self) -> None:
        amount(self.error, "error of a point of harm")
        _share(self.likely, "likely share of a point of harm")
        amount(self.kl, "KL of a point of harm")

    def snapped(self) -> HarmPoint:
        """Return the point rounded to the manifest's grid: steps of 4.4 %, for ``kl`` 9 %."""
        return _point(*_codes(self))


def thinned(points: Iterable[HarmPoint]) -> tuple[HarmPoint, ...]:
    """Return points for ``TaskEntry.curve``: snapped, by rising error, at most MAX_POINTS.

    If the errors of several points snap to one value, the first is kept. If there are too many
    points, those that divide the list evenly are kept, both ends and the first of the ``points``
    among them.
    """
    by_error: dict[float, HarmPoint] = {}
    for point in points:
        by_error.setdefault(point.snapped().error, point.snapped())
    rising = [by_error[error] for error in sorted(by_error)]
    if len(rising) <= MAX_POINTS:
        return tuple(rising)
    step = (len(rising) - 1) / (MAX_POINTS - 1)
    evenly = [round(i * step) for i in range(MAX_POINTS)]
    first = rising.index(next(iter(by_error.values())))
    if first not in evenly:
        evenly[min(max(round(first / step), 1), MAX_POINTS - 2)] = first
    return tuple(rising[i] for i in evenly)


def check_harm(harm: Any, where: str) -> Harm | None:
    """Return a task's harm, snapped; raise BundleFormatError unless it is a Harm or None."""
    check(harm is None or isinstance(harm, Harm), f"harm of {where}", harm, "a Harm or None")
    return None if harm is None else harm.snapped()


def check_curve(curve: Any, where: str) -> tuple[HarmPoint, ...]:
    """Return a task's curve, snapped; BundleFormatError for too many points or falling errors."""
    right = isinstance(curve, tuple) and all(isinstance(x, HarmPoint) for x in curve)
    check(right, f"curve of {where}", curve, "a tuple of HarmPoint")
    check(len(curve) <= MAX_POINTS, f"points of {where}", len(curve), f"at most {MAX_POINTS}")
    snapped = tuple(point.snapped() for point in curve)
    errors = [point.error for point in snapped]
    up = all(a < b for a, b in pairwise(errors))
    check(up, f"errors of the curve of {where} do not rise", errors, "rising by 4.4 % at least")
    return snapped


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


def pack_curve(curve: tuple[HarmPoint, ...]) -> str:
    """Encode points as base64 (without =) of three code bytes each."""
    codes = bytes(code for point in curve for code in _codes(point))
    return base64.b64encode(codes).decode()


def unpack_curve(text: Any) -> tuple[HarmPoint, ...]:
    """Decode the output of :func:`pack_curve`; raise BundleFormatError for anything else."""
    most = f"base64 text of at most {MAX_POINTS} points"
    check(isinstance(text, str) and len(text) <= 4 * MAX_POINTS, "curve", text, most)
    try:
        codes = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        bad(f"a curve is not base64: {error}", text)
    check(len(codes) % 3 == 0, "curve", text, "three bytes a point")
    return tuple(_point(*codes[i : i + 3]) for i in range(0, len(codes), 3))


def _codes(point: HarmPoint) -> tuple[int, int, int]:
    return code_of(point.error), code_of(point.likely), _kl_code(point.kl)


def _point(error: int, likely: int, kl: int) -> HarmPoint:
    return HarmPoint(error_of(error), error_of(likely), _kl_of(kl))


def _kl_code(kl: float) -> int:
    """Return round(8 (8 - log2 kl)) in [0, 254], from 256 nats to 7e-8; 255 is exactly zero."""
    if kl == 0:
        return _ZERO
    return min(max(round(_STEPS * (_TOP - math.log2(kl))), 0), _ZERO - 1)


def _kl_of(code: int) -> float:
    return 0.0 if code == _ZERO else 2.0 ** (_TOP - code / _STEPS)


def _share(value: Any, what: str) -> None:
    fine = isinstance(value, float | int) and type(value) is not bool and 0 <= value <= 1
    check(fine, what, value, "0 to 1")
