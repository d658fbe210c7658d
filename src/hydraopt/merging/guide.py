"""Estimate coded bits at a price, to choose prices before anything is coded."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hydraopt.linalg.shapes import Array
from hydraopt.merging.draft import Course

__all__ = ["SIZE_SLOPE", "Guide"]

SIZE_SLOPE = -0.6
"""Bits fall about as price^-0.6."""
_NEAR = 0.03
"""Distance in log price within which the slope predicts the bits between two prices."""
_MOST_ESTIMATES = 8
_LEAST = -80.0
"""Log price at which everything pays."""


class Guide:
    """Estimate of coded bits by price, used to choose prices; nothing is rounded or coded.

    estimate: returns the bits at a price. They fall smoothly and nearly as a power of the price,
    so no third price is tried between two that are near each other. Coding takes a nearly
    constant multiple of the estimate; the passes show which.
    """

    def __init__(self, estimate: Callable[[float], Array], start: float) -> None:
        self._estimate = estimate
        self._points: list[tuple[float, float]] = []  # (log price, log bits)
        self._at = math.log(start)
        self._last = np.zeros(0)

    def price(self, bits: float) -> float:
        """Return the price at which the estimate is ``bits``."""
        wanted = math.log(bits)
        for _ in range(_MOST_ESTIMATES):
            self._at, known = self._crossing(wanted)
            if known:
                break
            here = self._try()
            while here <= 0 and self._at > _LEAST:
                self._at -= 4  # Nothing pays any more: go back by a large step.
                here = self._try()
            if here <= 0:
                break
            self._points = sorted([*self._points, (self._at, math.log(here))])
        return math.exp(self._at)

    def bits(self, price: float) -> float:
        """Return the estimate near a price from :meth:`price`; 0 if nothing is known."""
        if not self._points:
            return 0.0
        x = math.log(price)
        (x0, y0), slope = self._nearest(x)
        return math.exp(y0 + slope * (x - x0))

    def course(self, price: float, wanted: float) -> Course | None:
        """Return the course of a pass that starts at the last price of :meth:`price`.

        Returns None if the estimate is zero bits.
        """
        expected = self.bits(price)
        if not expected:
            return None
        bits = self._last * (expected / self._last.sum())
        return Course(bits, self._nearest(math.log(price))[1], wanted)

    def _try(self) -> float:
        self._last = self._estimate(math.exp(self._at))
        return float(self._last.sum())

    def _nearest(self, x: float) -> tuple[tuple[float, float], float]:
        """Return the nearest known point, and the slope from there towards ``x``."""
        near = min(self._points, key=lambda point: abs(point[0] - x))
        others = [p for p in self._points if (p[0] - near[0]) * (x - near[0]) > 0]
        others = others or [p for p in self._points if p[0] != near[0]]
        if not others:
            return near, SIZE_SLOPE
        other = min(others, key=lambda point: abs(point[0] - near[0]))
        slope = (other[1] - near[1]) / (other[0] - near[0])
        return near, float(np.clip(slope, -5, -0.1))

    def _crossing(self, wanted: float) -> tuple[float, bool]:
        """Return the log price at which known points give ``wanted``, and whether one is near."""
        if not self._points:
            return self._at, False
        more = max((p for p in self._points if p[1] >= wanted), default=None)
        less = min((p for p in self._points if p[1] < wanted), default=None)
        if more and less and more[0] < less[0]:
            share = (more[1] - wanted) / (more[1] - less[1])
            x = more[0] + share * (less[0] - more[0])
            return x, min(x - more[0], less[0] - x) < _NEAR
        near = more or less
        assert near is not None
        step = float(np.clip((wanted - near[1]) / self._nearest(near[0])[1], -6, 6))
        return near[0] + step, abs(step) < _NEAR and len(self._points) > 1
