"""Cost in bits of each level on a Gaussian source; used by the trellis search, not by decoders."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["level_bits"]

_LEVELS = 64


def level_bits(spread: float) -> NDArray[np.float64]:
    """Ideal cost in bits, sign included, of |level| = 0..64 in both quantisers: (2, 65).

    spread: standard deviation of a centred Gaussian, in steps. From 16 on the density is flat over
    a step, so that probability no longer tells neighbouring levels apart: all zeros.
    """
    if spread >= _LEVELS / 4:
        return np.zeros((2, _LEVELS + 1))
    bits = np.empty((2, _LEVELS + 1))
    for q in range(2):
        points = 2.0 * np.arange(_LEVELS + 1) - q
        points[0] = 0.0
        edges = (points[1:] + points[:-1]) / 2
        inner = np.array([_below(edge) for edge in (edges / spread).tolist()])
        # P(0), then one side of each further level; the floor keeps far levels finite.
        mass = np.diff(np.concatenate([[1 - inner[0]], inner, [1.0]]))
        bits[q] = -np.log2(np.maximum(mass, 2.0**-40))
    return bits


def _below(x: float) -> float:
    """Return the standard normal distribution function at x >= 0.

    scipy.special has it too, but takes longer to load than small merges take.
    """
    z = x * math.sqrt(0.5)
    return 0.5 + 0.5 * math.erf(z) if z < math.sqrt(0.5) else 1 - 0.5 * math.erfc(z)
