"""Ways, modes and forms, and one side of a task's parts in a stream.

A task's dW in a module is a sum of k rank-one parts, ``dW ~ sum_j 2^(e_j / 32) l_j r_j^T``. Each
side of a part, left (m) and right (n), is written in one of four ways:

    explicit    its own integers;
    shared      coordinates y over the module's shared basis V (n, q):   r = V y;
    predicted   the same plus its own integers for what V misses:        r = V y + integers;
    started     coordinates over the initial A_0 of the task in the module, which a generator
                draws (see hydraopt.codec.starts), and over a few own directions W:
                r = A_0^T y + W z. Only a right side can be started; its left side is explicit.

The forms of the literature are two of these, left and right: private = explicit, explicit; shared
input = explicit, shared (HydraOpt's shape: V is the paper's A'^T, the left side its heads B'_t);
shared output = shared, explicit; two-sided = shared, shared; predicted = any with a predicted side.

Everything decoded is an integer or a power of two on a grid, so decoding is exact everywhere.
docs/reference/streams.md is the normative text.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import product
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec.matrices import Array, Basis
from hydraopt.codec.starts import Drawn, KnownStart
from hydraopt.codec.stream import (
    HEAVY,
    MOST_NUMBERS,
    Block,
    StreamReader,
    StreamWriter,
    quantise_block,
)
from hydraopt.codec.tables import EXPONENT_GRID, Kind, exponents, power, product_of_parts
from hydraopt.errors import NumericalError, explain


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


_EXPONENT_OCTAVES = 200
_EXPONENT_RANGE = EXPONENT_GRID * _EXPONENT_OCTAVES


class BasisRecord(NamedTuple):
    """Quantised basis: integers (N, q), and exponents (q,) that bring them to unit length."""

    block: Block
    exponents: NDArray[np.int64]

    @property
    def basis(self) -> Basis:
        return Basis(self.block.values * power(self.exponents))

    def keep(self, columns: NDArray[np.bool_]) -> BasisRecord:
        """Return the basis of the marked columns."""
        return BasisRecord(self.block.keep(columns), self.exponents[columns])


class Residual(NamedTuple):
    """Part of a started side outside of the initial A: c directions of the task's own.

    basis (N, c): the directions. coordinates (c, k): of the parts over them.
    """

    basis: BasisRecord
    coordinates: Block


class Side(NamedTuple):
    """Quantised side of k parts.

    coordinates (q, k): over the shared basis or the initial A; None if explicit.
    own (N, k): the numbers of an explicit or predicted side.
    values (N, k): decoded numbers, in steps.
    drawn, residual: initial A and residual of a started side; residual is None if it has none.
    """

    way: Way
    coordinates: Block | None
    own: Block | None
    values: Array
    drawn: Drawn | None = None
    residual: Residual | None = None

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks in the order in which they are written."""
        residual = (self.residual.basis.block, self.residual.coordinates) if self.residual else ()
        some = (self.coordinates, self.own, *residual)
        return tuple(x for x in some if x is not None)

    def keep(self, columns: NDArray[np.bool_] | slice) -> Side:
        """Return the side of the marked columns."""
        residual = self.residual
        return self._replace(
            coordinates=self.coordinates and self.coordinates.keep(columns),
            own=self.own and self.own.keep(columns),
            values=self.values[:, columns],
            residual=residual and residual._replace(coordinates=residual.coordinates.keep(columns)),
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
    if basis is None or way is Way.STARTED:
        raise ValueError(f"a side that is {way.name.lower()} needs a basis")
    return quantise_over(basis.coordinates(x), x if way is Way.PREDICTED else None, basis)


def quantise_over(coordinates: Array, x: Array | None, basis: Basis) -> Side:
    """Quantise one side of k parts, in steps, given its coordinates (q, k) over the basis.

    x (N, k): the side, to write the residual of the coordinates too; None to write none.
    """
    written = quantise_block(coordinates)
    values = product_of_parts(basis.vectors, written.values)
    if x is None:
        return Side(Way.SHARED, written, None, values)
    own = quantise_block(x - values)
    return Side(Way.PREDICTED, written, own, values + own.values)


_LEAST_KEPT: Final = 0.1
"""Minimum share of an own direction that rounding keeps; else the direction is not written."""
_LEAST_RESIDUAL: Final = 1e-12
"""Share of a side's energy below which a residual is rounding."""


def quantise_started(x: Array, drawn: Drawn, weights: Array, lengths: Array) -> Side:
    """Quantise one side ``x`` (N, k) of k parts, in steps, over an initial A and own directions.

    The directions are the principal ones of the residual of ``x * weights``, (k,). They are rounded
    with ``lengths`` (c,), in steps; fewer are written where the residual has fewer. Coordinates
    over the rounded directions keep the inner products of the residual with the true directions,
    so rounding adds noise and takes no effect away.
    """
    initial = drawn.basis(len(x))
    coordinates: Array = initial.coordinates(x)
    missed: Array = x - initial.vectors @ coordinates
    least = _LEAST_RESIDUAL * float(np.einsum("nk,nk,k,k->", x, x, weights, weights))
    directions = _principal(missed * weights, least)[:, : lengths.size]
    own = quantise_basis(directions * lengths[: directions.shape[1]])
    kept = np.einsum("nc,nc->c", directions, own.basis.vectors) > _LEAST_KEPT
    residual = None
    if kept.any():
        own, directions = own.keep(kept), directions[:, kept]
        over = own.basis.vectors
        over_own: Array = np.linalg.inv(directions.T @ over) @ (directions.T @ missed)
        # The noise of the directions lies in part within the initial A, which takes it back.
        coordinates -= initial.coordinates(over @ over_own)
        residual = Residual(own, quantise_block(over_own))
    shared = quantise_block(coordinates)
    values = _started(initial, shared.values, residual)
    return Side(Way.STARTED, shared, None, values, drawn, residual)


def _principal(x: Array, least: float) -> Array:
    """Return the principal directions of the columns of ``x`` (N, k) above an energy, (N, c)."""
    energy, vectors = np.linalg.eigh(x.T @ x)
    strong = np.flatnonzero(energy > least)[::-1]
    directions: Array = x @ (vectors[:, strong] / np.sqrt(energy[strong]))
    return directions


def _started(initial: Basis, coordinates: Array, residual: Residual | None) -> Array:
    """Return a started side (N, k). The sums go over the initial A first: part of the format."""
    if residual is None:
        return product_of_parts(initial.vectors, coordinates)
    vectors = np.concatenate([initial.vectors, residual.basis.basis.vectors], axis=1)
    return product_of_parts(vectors, np.concatenate([coordinates, residual.coordinates.values]))


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
    """Append one side of a record. The mode of the record states its way."""
    if side.drawn is not None:
        writer.integer(Kind.COUNT, side.drawn.rows)
        writer.run(Kind.COUNT, np.array([side.drawn.offset]))
    if side.coordinates is not None:
        writer.block(side.coordinates, HEAVY)
    if side.own is not None:
        writer.block(side.own)
    if side.drawn is not None:
        write_basis(writer, side.residual and side.residual.basis)
    if side.residual is not None:
        writer.block(side.residual.coordinates, HEAVY)


def read_started(reader: StreamReader, start: KnownStart | None, length: int, count: int) -> Side:
    """Read a started side as :func:`write_side` takes it; raise BundleFormatError for damage."""
    drawn = _read_drawn(reader, start, length)
    coordinates = reader.coded(drawn.rows, count, HEAVY)
    own = reader.integer(Kind.COUNT, 0, min(length, count), "the number of own directions")
    residual = None
    if own:
        reader.spend(length * own)
        block = reader.coded(length, own)
        basis = BasisRecord(block, read_exponents(reader, own))
        residual = Residual(basis, reader.coded(own, count, HEAVY))
    values = _started(drawn.basis(length), coordinates.values, residual)
    return Side(Way.STARTED, coordinates, None, values, drawn, residual)


def _read_drawn(reader: StreamReader, start: KnownStart | None, length: int) -> Drawn:
    """Read where the initial A of a started side begins."""
    if start is None:
        reader.damaged("a started side in a task without a start")
    rows = reader.integer(Kind.COUNT, 1, MOST_NUMBERS // length, "the rows of an initial A")
    reader.spend(rows * length)
    last = start.numbers - rows * length
    if last < 0:
        reader.damaged(f"an initial A of {rows} x {length} of {start.numbers} numbers")
    offset = reader.run(Kind.COUNT, 1, 0, last, "the place of an initial A")
    return Drawn(start, int(offset[0]), rows)
