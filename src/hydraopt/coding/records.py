"""One module's record in a stream: shared bases, and a task's parts over them. Encode and decode.

Everything decoded is an integer or a power of two on a grid, so decoding is exact everywhere.
docs/reference/streams.md is the normative text of the records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.coefficients import power
from hydraopt.coding.forms import MODES, PRIVATE, Mode, Way
from hydraopt.coding.product import product
from hydraopt.coding.side import (
    Side,
    check_exponents,
    read_exponents,
    read_started,
    write_exponents,
    write_side,
)
from hydraopt.coding.stream import HEAVY, StreamReader, StreamWriter
from hydraopt.coding.tables import Kind
from hydraopt.linalg.basis import Bases, Basis
from hydraopt.linalg.shapes import Array, Factors
from hydraopt.linalg.start import Drawn, KnownStart

__all__ = [
    "Numbers",
    "PartsRecord",
    "SplitRecord",
    "SplitSide",
    "read_record",
    "read_split_record",
    "states_mode",
    "write_record",
]


@dataclass(frozen=True)
class PartsRecord:
    """Quantised parts of a task in a module: ``dW ~ (left * 2^(exponents / 32)) right^T``."""

    left: Side
    right: Side
    exponents: NDArray[np.int64]

    @property
    def mode(self) -> Mode:
        return Mode(self.left.way, self.right.way)

    @property
    def count(self) -> int:
        return int(self.exponents.size)

    @property
    def numbers(self) -> int:
        """Numbers that a stream states: of the factors, of an initial A and of own directions."""
        numbers = self.left.values.size + self.right.values.size
        if self.right.drawn is not None:
            residual = self.right.residual
            own = residual.coordinates.levels.shape[1] if residual else 0
            numbers += len(self.right.values) * (self.right.drawn.rows + own)
        return numbers

    def check(self, adapter: str | None = None, module: str | None = None) -> None:
        """Raise NumericalError, naming adapter and module, for what no stream can hold."""
        check_exponents(self.exponents, adapter, module)
        for block in (*self.right.blocks, *self.left.blocks):
            block.check(adapter, module)

    @property
    def factors(self) -> Factors:
        """Decoded B (m, k) with the coefficients inside, and A (k, n)."""
        return Factors(self.left.values * power(self.exponents), self.right.values.T)


def states_mode(bases: Bases, start: KnownStart | None) -> bool:
    """Return whether a task's record of a module states its mode; else both sides are explicit.

    bases: of the module, left and right. start: of the task.
    """
    return any(x is not None for x in (*bases, start))


def write_record(writer: StreamWriter, record: PartsRecord | None, with_mode: bool) -> None:
    """Append a task's record of one module; None, or no parts, is written as a count of zero.

    with_mode: as :func:`states_mode` returns it.
    """
    if record is None or record.count == 0:
        writer.integer(Kind.COUNT, 0)
        return
    writer.integer(Kind.COUNT, record.count)
    if with_mode:
        writer.integer(Kind.MODE, record.mode.code)
    write_side(writer, record.right)
    write_side(writer, record.left)
    write_exponents(writer, record.exponents)


Numbers = NDArray[np.int32] | Array
"""Integers from a stream, or values as given."""


class SplitSide(NamedTuple):
    """Side of k parts: coordinates (q, k) over a basis and own numbers (N, k), or None."""

    coordinates: Numbers | None
    own: Numbers | None

    def values(self, basis: Basis | None) -> Array:
        """Return the side multiplied out, (N, k)."""
        if self.coordinates is None or basis is None:
            assert self.own is not None
            return self.own.astype(np.float64, copy=False)
        shared = product(basis.vectors, self.coordinates)
        return shared if self.own is None else shared + self.own


@dataclass(frozen=True)
class SplitRecord:
    """Record of a task in a module, with shared and private numbers kept separate.

    ``dW = left diag(coefficients) right^T`` with ``left = W z + b`` and ``right = V y + a``.

    W (m, p), V (n, q): shared bases.
    z (p, k), y (q, k): coordinates over the bases, if ``mode`` has them.
    b (m, k), a (n, k): private numbers, if ``mode`` has them.
    coefficients (k,): coefficient of each part.
    drawn: initial A of a started right side, which is multiplied out: its numbers are private.

    So dW x needs ``V^T x``, which is the same for all tasks, and the task's private numbers.
    """

    left: SplitSide
    right: SplitSide
    coefficients: Array
    mode: Mode
    drawn: Drawn | None = None

    @classmethod
    def of(cls, factors: Factors) -> SplitRecord:
        """Return the record of factors that share nothing."""
        ones = np.ones(factors.A.shape[0])
        return cls(SplitSide(None, factors.B), SplitSide(None, factors.A.T), ones, PRIVATE)

    @property
    def count(self) -> int:
        """Number of parts, k."""
        return int(self.coefficients.size)

    def factors(self, left: Basis | None, right: Basis | None) -> Factors:
        """Return B (m, k) and A (k, n): the record multiplied out over the bases."""
        return Factors(self.left.values(left) * self.coefficients, self.right.values(right).T)


def read_split_record(
    reader: StreamReader, m: int, n: int, p: int, q: int, start: KnownStart | None = None
) -> SplitRecord:
    """Read the record of a task in a module (m, n) with bases of p left and q right vectors.

    start: of the task, if it has one. Raises BundleFormatError for damage.
    """
    count, mode = _read_count(reader, m, n, bool(p or q or start))
    if count == 0:
        return SplitRecord.of(Factors(np.zeros((m, 0)), np.zeros((0, n))))
    drawn = None
    if mode.right is Way.STARTED:
        started = read_started(reader, start, n, count)
        drawn, right = started.drawn, SplitSide(None, started.values)
    else:
        right = _read_side(reader, mode.right, q, n, count)
    left = _read_side(reader, mode.left, p, m, count)
    return SplitRecord(left, right, power(read_exponents(reader, count)), mode, drawn)


def _read_count(reader: StreamReader, m: int, n: int, with_mode: bool) -> tuple[int, Mode]:
    """Read the number of parts of the next record, and its mode."""
    count = reader.integer(Kind.COUNT, 0, 2 * min(m, n) + 1, "the number of parts")
    reader.spend(count * (m + n))
    if count == 0 or not with_mode:
        return count, PRIVATE
    return count, MODES[reader.integer(Kind.MODE, 0, len(MODES) - 1, "the mode of a record")]


def _read_side(reader: StreamReader, way: Way, width: int, length: int, count: int) -> SplitSide:
    coordinates = own = None
    if way is not Way.EXPLICIT:
        if width == 0:
            reader.damaged(f"a {way.name.lower()} side in a module without such a basis")
        coordinates = reader.block(width, count, HEAVY)
    if way is not Way.SHARED:
        own = reader.block(length, count)
    return SplitSide(coordinates, own)


def read_record(
    reader: StreamReader, m: int, n: int, bases: Bases, start: KnownStart | None = None
) -> PartsRecord | None:
    """Read the record of a task, over the module's bases, as :func:`write_record` takes it.

    bases: of the module, left and right. start: of the task, if it has one. The stream must be
    sound: this is for one that was just written, to write it again with other coefficients.
    """
    left, right = bases
    count, mode = _read_count(reader, m, n, states_mode(bases, start))
    if count == 0:
        return None
    if mode.right is Way.STARTED:
        rights = read_started(reader, start, n, count)
    else:
        rights = _read_coded(reader, mode.right, right, n, count)
    lefts = _read_coded(reader, mode.left, left, m, count)
    return PartsRecord(lefts, rights, read_exponents(reader, count))


def _read_coded(
    reader: StreamReader, way: Way, basis: Basis | None, length: int, count: int
) -> Side:
    coordinates = own = None
    values = np.zeros((length, count))
    if way is not Way.EXPLICIT:
        assert basis is not None
        coordinates = reader.coded(basis.q, count, HEAVY)
        values = product(basis.vectors, coordinates.values)
    if way is not Way.SHARED:
        own = reader.coded(length, count)
        values = values + own.values
    return Side(way, coordinates, own, values)
