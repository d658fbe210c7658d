"""A record with what is shared and what is the task's own apart, for whoever keeps the bases once.

hydraopt.parts multiplies a record out to B and A; here its blocks stay as they are in the stream:

    left  = W z + b      bases W (m, p) and V (n, q), coordinates z (p, k) and y (q, k), own
    right = V y + a      integers b (m, k) and a (n, k), each where the record's way has it
    dW    = left diag(c) right^T

so that dW x needs ``V^T x``, which all tasks have in common, and then only what is the task's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hydraopt.coding.stream import StreamReader
from hydraopt.parts import PRIVATE, Kind, Mode, Way, _read_exponents
from hydraopt.types import Array, Basis, Factors, power

__all__ = ["SplitRecord", "SplitSide", "read_split"]


@dataclass(frozen=True)
class SplitSide:
    """One side of k parts: coordinates (q, k) over a basis and own integers (N, k), or None."""

    coordinates: Array | None
    own: Array | None

    def values(self, basis: Basis | None) -> Array:
        """(N, k): the side multiplied out."""
        if self.coordinates is None or basis is None:
            assert self.own is not None
            return self.own
        shared: Array = basis.vectors @ self.coordinates
        return shared if self.own is None else shared + self.own

    @property
    def sizes(self) -> Array:
        """(k,): the columns' lengths, as if basis and own integers were orthonormal."""
        blocks = [x for x in (self.coordinates, self.own) if x is not None]
        squares = [np.einsum("nk,nk->k", x, x) for x in blocks]
        return np.asarray(np.sqrt(np.sum(squares, axis=0)), np.float64)


@dataclass(frozen=True)
class SplitRecord:
    """``dW = left diag(coefficients) right^T``; coefficients (k,)."""

    left: SplitSide
    right: SplitSide
    coefficients: Array

    @classmethod
    def of(cls, factors: Factors) -> SplitRecord:
        """The record of factors that share nothing."""
        ones = np.ones(factors.A.shape[0])
        return cls(SplitSide(None, factors.B), SplitSide(None, factors.A.T), ones)

    @property
    def count(self) -> int:
        """k, the number of parts."""
        return int(self.coefficients.size)

    def factors(self, left: Basis | None, right: Basis | None) -> Factors:
        """B (m, k) and A (k, n), as hydraopt.parts rebuilds them."""
        return Factors(self.left.values(left) * self.coefficients, self.right.values(right).T)


def read_split(reader: StreamReader, m: int, n: int, p: int, q: int) -> SplitRecord:
    """The next record of a task in a module (m, n) with bases of p left and q right vectors.

    Mirrors hydraopt.parts.read_parts, block by block. Raises BundleFormatError for damage.
    """
    count = reader.integer(Kind.COUNT, 0, 2 * min(m, n) + 1, "the number of parts")
    if count == 0:
        return SplitRecord.of(Factors(np.zeros((m, 0)), np.zeros((0, n))))
    mode = PRIVATE
    if p or q:
        code = reader.integer(Kind.MODE, 0, len(Way) ** 2 - 1, "the mode of a record")
        left_way, right_way = divmod(code, len(Way))
        mode = Mode(Way(left_way), Way(right_way))
    right = _read_side(reader, mode.right, q, n, count, Kind.RIGHT_SPREAD)
    left = _read_side(reader, mode.left, p, m, count, Kind.LEFT_SPREAD)
    return SplitRecord(left, right, power(_read_exponents(reader, count)))


def _read_side(
    reader: StreamReader, way: Way, width: int, length: int, count: int, kind: Kind
) -> SplitSide:
    coordinates = own = None
    if way is not Way.EXPLICIT:
        if width == 0:
            reader.damaged(f"a {way.name.lower()} side in a module without such a basis")
        coordinates = reader.block(width, count, Kind.COORDINATE_SPREAD).astype(np.float64)
    if way is not Way.SHARED:
        own = reader.block(length, count, kind).astype(np.float64)
    return SplitSide(coordinates, own)
