"""Encode and decode the record of a dense tensor: a head, an embedding, a vector.

A tensor is coded as a matrix (N, k), N >= k, that is the difference from what the reader already
has: ``X ~ reference + L + R``, with L a few parts (a low-rank product, as a module's) and R a block
of numbers in steps, whole or of some rows only. Each may be missing.
docs/reference/streams.md is the normative text of the records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.coefficients import EXPONENT_GRID, power
from hydraopt.coding.product import product
from hydraopt.coding.records import PartsRecord, read_record, write_record
from hydraopt.coding.side import check_exponents, read_exponents
from hydraopt.coding.stream import Block, StreamReader, StreamWriter, quantise_block
from hydraopt.coding.tables import Kind
from hydraopt.linalg.shapes import Array

__all__ = [
    "MOST_OFFSET",
    "STEP_GRID",
    "DenseRecord",
    "Rest",
    "as_matrix",
    "from_matrix",
    "matrix_shape",
    "quantise_rest",
    "read_common",
    "read_dense",
    "step_of",
    "write_dense",
]

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
            matrix += product(factors.B, factors.A)
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
