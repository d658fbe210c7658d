"""Records of a stream: a module's bases and parts, and dense tensors. Encode and decode.

Everything decoded is an integer or a power of two on a grid, so decoding is exact everywhere.
docs/reference/streams.md is the normative text of the records.

A tensor is coded as a matrix (N, k), N >= k, that is the difference from what the reader already
has: ``X ~ reference + L + R``, with L a few parts (a low-rank product, as a module's) and R a block
of numbers in steps, whole or of some rows only. Each may be missing.
docs/reference/streams.md is the normative text of the records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec.matrices import Array, Bases, Basis, Factors
from hydraopt.codec.sides import (
    MODES,
    PRIVATE,
    Mode,
    Side,
    Way,
    check_exponents,
    read_exponents,
    read_started,
    write_exponents,
    write_side,
)
from hydraopt.codec.starts import Drawn, KnownStart
from hydraopt.codec.stream import HEAVY, Block, StreamReader, StreamWriter, quantise_block
from hydraopt.codec.tables import EXPONENT_GRID, Kind, power, product_of_parts


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
        shared = product_of_parts(basis.vectors, self.coordinates)
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
        values = product_of_parts(basis.vectors, coordinates.values)
    if way is not Way.SHARED:
        own = reader.coded(length, count)
        values = values + own.values
    return Side(way, coordinates, own, values)


BLOCK: Final = 1 << 20
"""Numbers of a block; a tensor of more is cut into blocks of whole rows. Part of the format."""
MOST_OFFSET: Final = 1 << 24
"""Steps, in either direction; part of the format."""
_REST, _PARTS, _COMMON, _ROWS, _OFFSETS = 1, 2, 4, 8, 16
"""Flags for the contents of a record, added up; part of the format."""


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return the shape (N, k) in which a tensor is coded: first axis against the rest, N >= k."""
    if not shape:
        return 1, 1
    first, others = shape[0], math.prod(shape[1:])
    return (first, others) if first >= others else (others, first)


def as_matrix(x: Array) -> Array:
    """Return the tensor as the matrix (N, k) of :func:`matrix_shape`."""
    flat = x.reshape(x.shape[0], -1) if x.ndim else x.reshape(1, 1)
    return flat if flat.shape[0] >= flat.shape[1] else flat.T


def from_matrix(x: Array, shape: Sequence[int]) -> Array:
    """Invert :func:`as_matrix`."""
    others = math.prod(shape[1:])
    turned = bool(shape) and shape[0] < others
    return np.ascontiguousarray(x.T if turned else x).reshape(shape)


def _row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield the rows of each block."""
    each = max(BLOCK // max(columns, 1), 1)
    for start in range(0, rows, each):
        yield slice(start, min(start + each, rows))


STEP_GRID: Final = 256
"""Steps are 2^(e / STEP_GRID) with integer e, finer than coefficients: in a large tensor one of the
latter's grid is two percent of the bytes. Part of the format."""
_FINER: Final = STEP_GRID // EXPONENT_GRID
_FRACTIONS: Final = [round(2 ** (30 + i / STEP_GRID)) for i in range(_FINER)]


def step_of(exponent: int) -> float:
    """Return 2^(e / 256) through two tables of 31-bit integers: the same bits on every machine."""
    whole, fine = divmod(exponent, _FINER)
    return float(power(np.array([whole], np.int64))[0]) * (_FRACTIONS[fine] / (1 << 30))


class Rest(NamedTuple):
    """Numbers in steps: blocks of the rows of a matrix (N, k), or of some of them.

    exponent: a step is 2^(exponent / 256). rows: rising indices of those that are coded, None for
    all. offsets: (k,), what is added to every coded number of a column, in steps; None for nothing.
    """

    exponent: int
    blocks: tuple[Block, ...]
    rows: NDArray[np.int64] | None = None
    offsets: NDArray[np.int64] | None = None

    def add_to(self, matrix: Array) -> None:
        """Add what a reader will see to ``matrix`` (N, k)."""
        step = step_of(self.exponent)
        columns = matrix.shape[1]
        count = matrix.shape[0] if self.rows is None else self.rows.size
        for block, some in zip(self.blocks, _row_blocks(count, columns), strict=True):
            where = some if self.rows is None else self.rows[some]
            steps = block.integers.T if self.offsets is None else block.integers.T + self.offsets
            matrix[where] += steps * step

    @property
    def is_zero(self) -> bool:
        if self.offsets is not None and self.offsets.any():
            return False
        return not any(block.levels.any() for block in self.blocks)


class DenseRecord(NamedTuple):
    """Coded tensor of a task.

    parts: at most one record of parts over no bases. common: whether the reference is the part that
    the tasks share.
    """

    parts: PartsRecord | None = None
    rest: Rest | None = None
    common: bool = False

    def check(self, adapter: str | None = None, module: str | None = None) -> None:
        """Raise NumericalError, naming adapter and module, for what no stream can hold."""
        if self.parts is not None:
            self.parts.check(adapter, module)
        if self.rest is not None:
            own = np.array([self.rest.exponent // _FINER], np.int64)
            check_exponents(own, adapter, module)
            for block in self.rest.blocks:
                block.check(adapter, module)

    def numbers(self, whole: int, bounded: bool) -> int:
        """Count the numbers of a record of a tensor of ``whole``; see :func:`read_dense`."""
        own = 0 if self.parts is None else self.parts.numbers
        if not bounded:
            return whole + own
        if self.rest is None:
            return own
        offsets = 0 if self.rest.offsets is None else self.rest.offsets.size
        return own + offsets + sum(block.levels.size for block in self.rest.blocks)

    def values(self, reference: Array) -> Array:
        """Return the decoded matrix (N, k), float64; the reference stays unchanged."""
        matrix: Array = reference.astype(np.float64)
        if self.parts is not None:
            factors = self.parts.factors
            matrix += product_of_parts(factors.B, factors.A)
        if self.rest is not None:
            self.rest.add_to(matrix)
        return matrix


def quantise_rest(
    x: Array,
    exponent: int,
    rows: NDArray[np.int64] | None = None,
    offsets: NDArray[np.int64] | None = None,
) -> Rest:
    """Round ``x``, the coded rows (N, k) of a matrix, to steps of 2^(exponent / 256)."""
    step = step_of(exponent)
    less = 0 if offsets is None else offsets
    blocks = [quantise_block(x[some] / step - less) for some in _row_blocks(*x.shape)]
    return Rest(exponent, tuple(blocks), rows, offsets)


def write_dense(writer: StreamWriter, record: DenseRecord) -> None:
    """Append a record."""
    rest, parts = record.rest, record.parts
    if parts is not None and parts.count == 0:
        parts = None
    what = _PARTS * (parts is not None) + _COMMON * record.common
    if rest is not None:
        what += _REST + _ROWS * (rest.rows is not None) + _OFFSETS * (rest.offsets is not None)
    writer.integer(Kind.COUNT, what)
    if parts is not None:
        write_record(writer, parts, with_mode=False)
    if rest is None:
        return
    whole = np.array([rest.exponent // _FINER], np.int64)
    check_exponents(whole)
    writer.run(Kind.EXPONENT, whole)
    writer.integer(Kind.COUNT, rest.exponent % _FINER)
    if rest.rows is not None:
        writer.integer(Kind.COUNT, rest.rows.size)
        writer.run(Kind.COUNT, rest.rows)
    if rest.offsets is not None:
        writer.run(Kind.COUNT, rest.offsets)
    for block in rest.blocks:
        writer.block(block)


def read_dense(
    reader: StreamReader, shape: tuple[int, int], has_common: bool, bounded: bool = False
) -> DenseRecord:
    """Read the record of a tensor that is coded as a matrix of ``shape`` (N, k).

    has_common: the tasks share something in this tensor. bounded: whoever asks for the whole tensor
    pays for it elsewhere, so that only coded numbers count here. Raises BundleFormatError.
    """
    rows, columns = shape
    most = _REST | _PARTS | _ROWS | _OFFSETS | _COMMON
    what = reader.integer(Kind.COUNT, 0, most, "what a tensor's record has")
    idle = what & (_ROWS | _OFFSETS) and not what & _REST
    if idle or (what & _COMMON and not has_common):
        reader.damaged(f"a tensor's record has {what}")
    if not bounded:
        reader.spend(rows * columns)
    parts = None
    if what & _PARTS:
        parts = read_record(reader, rows, columns, (None, None))
    if not what & _REST:
        return DenseRecord(parts, None, bool(what & _COMMON))
    whole = int(read_exponents(reader, 1)[0])
    exponent = whole * _FINER + reader.integer(Kind.COUNT, 0, _FINER - 1, "a step")
    indices = None
    if what & _ROWS:
        rows = reader.integer(Kind.COUNT, 0, rows, "the number of rows")
    if bounded:
        reader.spend(rows * columns + (columns if what & _OFFSETS else 0))
    if what & _ROWS:
        indices = reader.run(Kind.COUNT, rows, 0, shape[0] - 1, "a row")
        if np.any(np.diff(indices) <= 0):
            reader.damaged("rows of a tensor are not rising")
    offsets = None
    if what & _OFFSETS:
        offsets = reader.run(Kind.COUNT, columns, -MOST_OFFSET, MOST_OFFSET, "an offset")
    blocks = [reader.coded(x.stop - x.start, columns) for x in _row_blocks(rows, columns)]
    return DenseRecord(parts, Rest(exponent, tuple(blocks), indices, offsets), bool(what & _COMMON))


def read_common(reader: StreamReader, shape: tuple[int, int]) -> DenseRecord | None:
    """Read a record of the shared stream: the common part of a tensor, None for nothing.

    Raises BundleFormatError, also for parts and named rows, which no writer shares.
    """
    record = read_dense(reader, shape, has_common=False, bounded=True)
    if record.parts is not None or (record.rest is not None and record.rest.rows is not None):
        reader.damaged("what is shared of a tensor is not whole")
    return None if record.rest is None else record
