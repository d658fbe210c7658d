"""Bases, and one side of a task's parts, in a stream. Encode and decode.

Everything decoded is an integer or a power of two on a grid, so decoding is exact everywhere.
docs/reference/streams.md is the normative text.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.coefficients import EXPONENT_GRID, exponents, power
from hydraopt.coding.forms import Way
from hydraopt.coding.product import product
from hydraopt.coding.stream import HEAVY, Block, StreamReader, StreamWriter, quantise_block
from hydraopt.coding.tables import Kind
from hydraopt.errors import NumericalError, explain
from hydraopt.linalg.basis import Basis
from hydraopt.linalg.shapes import Array

__all__ = [
    "BasisRecord",
    "Side",
    "check_exponents",
    "quantise_basis",
    "quantise_over",
    "quantise_side",
    "read_basis",
    "read_exponents",
    "write_basis",
    "write_exponents",
    "write_side",
]

_EXPONENT_OCTAVES = 200
_EXPONENT_RANGE = EXPONENT_GRID * _EXPONENT_OCTAVES


class BasisRecord(NamedTuple):
    """Quantised basis: integers (N, q), and exponents (q,) that bring them to unit length."""

    block: Block
    exponents: NDArray[np.int64]

    @property
    def basis(self) -> Basis:
        return Basis(self.block.values * power(self.exponents))


class Side(NamedTuple):
    """Quantised side of k parts; ``values`` (N, k) are its decoded numbers, in steps."""

    way: Way
    coordinates: Block | None
    own: Block | None
    values: Array

    def keep(self, columns: NDArray[np.bool_] | slice) -> Side:
        """Return the side of the marked columns."""
        coordinates = self.coordinates and self.coordinates.keep(columns)
        return Side(
            self.way, coordinates, self.own and self.own.keep(columns), self.values[:, columns]
        )


def quantise_basis(x: Array) -> BasisRecord:
    """Quantise a basis ``x`` (N, q), in steps; columns that round to zero are kept as zeros."""
    block = quantise_block(x)
    lengths = np.linalg.norm(block.values, axis=0)
    return BasisRecord(block, -exponents(lengths))


def quantise_side(x: Array, way: Way, basis: Basis | None) -> Side:
    """Quantise one side ``x`` (N, k) of k parts, in steps; ``basis`` (N, q) unless explicit."""
    if way is Way.EXPLICIT:
        own = quantise_block(x)
        return Side(way, None, own, own.values)
    if basis is None:
        raise ValueError(f"a side that is {way.name.lower()} needs a basis")
    return quantise_over(basis.coordinates(x), x if way is Way.PREDICTED else None, basis)


def quantise_over(coordinates: Array, x: Array | None, basis: Basis) -> Side:
    """Quantise one side of k parts, in steps, of which the coordinates (q, k) are known already.

    x (N, k): the side itself, of which what the coordinates leave is written too; None: nothing.
    """
    written = quantise_block(coordinates)
    values = product(basis.vectors, written.values)
    if x is None:
        return Side(Way.SHARED, written, None, values)
    own = quantise_block(x - values)
    return Side(Way.PREDICTED, written, own, values + own.values)


def check_exponents(
    exponents: NDArray[np.int64], adapter: str | None = None, module: str | None = None
) -> None:
    """Raise NumericalError, naming adapter and module, for exponents that no stream can hold."""
    worst = int(np.abs(exponents).max(initial=0))
    if worst > _EXPONENT_RANGE:
        raise NumericalError(
            explain(
                "weights are too large or too small to be coded",
                adapter=adapter,
                module=module,
                got=f"a coefficient of 2^+-{worst / EXPONENT_GRID:.0f}",
                expected=f"between 2^-{_EXPONENT_OCTAVES} and 2^{_EXPONENT_OCTAVES}",
                do="Leave the adapter out, or use --lossless",
            )
        )


def write_exponents(writer: StreamWriter, exponents: NDArray[np.int64]) -> None:
    """Append exponents; raise NumericalError for what no stream can hold."""
    check_exponents(exponents)
    writer.run(Kind.EXPONENT, exponents)


def read_exponents(reader: StreamReader, count: int) -> NDArray[np.int64]:
    """Read exponents; raise BundleFormatError for exponents that no writer writes."""
    return reader.run(Kind.EXPONENT, count, -_EXPONENT_RANGE, _EXPONENT_RANGE, "an exponent")


def write_basis(writer: StreamWriter, record: BasisRecord | None) -> None:
    """Append a basis to the shared stream; None is written as zero vectors."""
    if record is None:
        writer.integer(Kind.COUNT, 0)
        return
    writer.integer(Kind.COUNT, len(record.block.spreads))
    writer.block(record.block)
    write_exponents(writer, record.exponents)


def read_basis(reader: StreamReader, length: int, most: int) -> Basis | None:
    """Read a basis of vectors (length,); raise BundleFormatError for more than ``most``."""
    count = reader.integer(Kind.COUNT, 0, most, "the number of basis vectors")
    if count == 0:
        return None
    reader.spend(length * count)
    integers = reader.block(length, count)
    return Basis(integers * power(read_exponents(reader, count)))


def write_side(writer: StreamWriter, side: Side) -> None:
    """Append one side of a record; :func:`write_record` says which way it is written in."""
    if side.coordinates is not None:
        writer.block(side.coordinates, HEAVY)
    if side.own is not None:
        writer.block(side.own)
