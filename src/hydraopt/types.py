"""The names of linalg and coding.coefficients in one place, for imports that predate them."""

from __future__ import annotations

from hydraopt.coding.coefficients import EXPONENT_GRID, exponents, power
from hydraopt.linalg.basis import Basis, symmetric_inverse
from hydraopt.linalg.shapes import Array, Factors, Thin
from hydraopt.linalg.svd import thin

__all__ = [
    "EXPONENT_GRID",
    "Array",
    "Basis",
    "Factors",
    "Thin",
    "exponents",
    "power",
    "symmetric_inverse",
    "thin",
]
