"""Ways, modes and forms: how the sides of a task's parts are written.

A task's dW in a module is a sum of k rank-one parts, ``dW ~ sum_j 2^(e_j / 32) l_j r_j^T``. Each
side of a part, left (m) and right (n), is written in one of four ways:

    explicit    its own integers;
    shared      coordinates y over the module's shared basis V (n, q):   r = V y;
    predicted   the same plus its own integers for what V misses:        r = V y + integers;
    started     coordinates over the initial A_0 of the task in the module, which a generator
                draws (see hydraopt.linalg.start), and over a few own directions W:
                r = A_0^T y + W z. Only a right side can be started; its left side is explicit.

The forms of the literature are two of these, left and right: private = explicit, explicit; shared
input = explicit, shared (HydraOpt's shape: V is the paper's A'^T, the left side its heads B'_t);
shared output = shared, explicit; two-sided = shared, shared; predicted = any with a predicted side.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import product
from typing import NamedTuple

__all__ = ["FORMS", "MODES", "PRIVATE", "Mode", "Way"]


class Way(IntEnum):
    """Encoding of one side of a task's parts."""

    EXPLICIT = 0
    SHARED = 1
    PREDICTED = 2
    STARTED = 3


class Mode(NamedTuple):
    """Ways of both sides; ``code`` is their number in the stream."""

    left: Way
    right: Way

    @property
    def code(self) -> int:
        return 3 * self.left + (9 if self.right is Way.STARTED else self.right)

    def needs_no_more_than(self, left: object, right: object) -> bool:
        """Return whether the mode can be used with these bases; None stands for a missing basis."""
        return (self.left not in _OVER_SHARED or left is not None) and (
            self.right not in _OVER_SHARED or right is not None
        )

    @property
    def form(self) -> str:
        """Name of the form in the literature and in reports."""
        return _FORM_OF[self]


_OVER_SHARED = (Way.SHARED, Way.PREDICTED)


def _form(mode: Mode) -> str:
    if mode.right is Way.STARTED:
        return "started"
    if Way.PREDICTED in (mode.left, mode.right):
        return "predicted"
    return {
        (Way.EXPLICIT, Way.EXPLICIT): "private",
        (Way.EXPLICIT, Way.SHARED): "shared-input",
        (Way.SHARED, Way.EXPLICIT): "shared-output",
        (Way.SHARED, Way.SHARED): "two-sided",
    }[mode.left, mode.right]


MODES = (
    *(Mode(left, right) for left, right in product((Way.EXPLICIT, *_OVER_SHARED), repeat=2)),
    Mode(Way.EXPLICIT, Way.STARTED),
)
"""Modes by code."""
_FORM_OF = {mode: _form(mode) for mode in MODES}
PRIVATE = Mode(Way.EXPLICIT, Way.EXPLICIT)

FORMS: dict[str, tuple[Mode, ...]] = {
    **{
        name: tuple(mode for mode in MODES if _FORM_OF[mode] == name)
        for name in ("private", "shared-input", "shared-output", "two-sided", "predicted")
    },
    # Private is for tasks without a start.
    "started": (Mode(Way.EXPLICIT, Way.STARTED), PRIVATE),
}
"""Every form by name, with the modes that belong to it."""
