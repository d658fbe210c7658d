"""Decoder of the range coder: mirrors rangeencoder.py on purpose, step by step.

Integers only, and a page of C in docs/reference/decoder.c. It never reads past the data (zeros
follow), so a damaged stream gives wrong numbers but no crash; what may be allocated is checked in
stream.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.model import (
    ACTIVITIES,
    BINS,
    CLASSES,
    CONTEXTS,
    MASK,
    MOST_NUMBER,
    MOST_SIDE,
    MOST_SUM,
    SHIFT_FROM,
    TOP,
    activity,
    bounds,
    moved,
)
from hydraopt.coding.trellis import NEXT_STATE, QUANTISER
from hydraopt.compiled import njit
from hydraopt.machinecode import INLINED

__all__ = ["decode_columns", "decode_integer", "decode_run", "new_decoder", "taken"]

# State, one int64 vector: the code word less the encoder's low, range, position.
_LOW, _RANGE, _POS = 0, 1, 2


def new_decoder(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """State at the start of a stream; bytes past its end read as zero."""
    state = np.zeros(3, np.int64)
    state[_RANGE] = MASK
    for i in range(5):
        state[_LOW] = ((state[_LOW] << 8) | (data[i] if i < data.shape[0] else 0)) & MASK
    state[_POS] = 5
    return state


def taken(state: NDArray[np.int64]) -> int:
    """Bytes asked for so far; more than there are where the stream has been read past its end."""
    return int(state[_POS])


@njit(cache=True, nogil=True, inline="always")
def _byte(data: NDArray[np.uint8], pos: int) -> int:
    return np.int64(data[pos]) if pos < data.shape[0] else 0  # type: ignore[return-value]


@njit(cache=True, nogil=True, inline="always")
def _decode_bit(
    low: int, span: int, pos: int, data: NDArray[np.uint8], model: NDArray[np.int32], ctx: int
) -> tuple[int, int, int, int]:
    at = np.uint64(ctx)
    known = int(model[at])
    bound = (span >> 16) * (known >> 8)
    if low < bound:
        span = bound
        bit = 1
        model[at] = moved(known, 1)
    else:
        low -= bound
        span -= bound
        bit = 0
        model[at] = moved(known, 0)
    while span < TOP:
        low = (low << 8) | _byte(data, pos)
        pos += 1
        span <<= 8
    return bit, low, span, pos


@njit(cache=True, nogil=True, inline="always")
def _decode_raw(
    low: int, span: int, pos: int, data: NDArray[np.uint8], width: int
) -> tuple[int, int, int, int]:
    value = 0
    for _ in range(width):
        span >>= 1
        value <<= 1
        if low >= span:
            low -= span
            value |= 1
        while span < TOP:
            low = (low << 8) | _byte(data, pos)
            pos += 1
            span <<= 8
    return value, low, span, pos


@njit(cache=True, nogil=True, **INLINED)
def _decode_magnitude_rest(
    low: int,
    span: int,
    pos: int,
    data: NDArray[np.uint8],
    model: NDArray[np.int32],
    base: int,
    least: int,
) -> tuple[int, int, int, int]:
    """Decode a magnitude of at least ``least``."""
    for j in range(least, BINS - 1):
        bit, low, span, pos = _decode_bit(low, span, pos, data, model, base + j)
        if bit == 0:
            return j, low, span, pos
    width = 0
    # A width that no encoder writes ends the loop: a damaged stream must not run on.
    while width < 30:
        bit, low, span, pos = _decode_bit(low, span, pos, data, model, base + BINS - 1)
        if bit == 0:
            break
        width += 1
    rest, low, span, pos = _decode_raw(low, span, pos, data, width)
    return (1 << width) + rest - 1 + (BINS - 1), low, span, pos


@njit(cache=True, nogil=True, **INLINED)
def decode_integer(
    state: NDArray[np.int64], data: NDArray[np.uint8], model: NDArray[np.int32], kind: int
) -> int:
    """Decode a side integer; mirrors :func:`encode_integer`."""
    base = CONTEXTS + kind * 2 * BINS
    low, span, pos = state[_LOW], state[_RANGE], state[_POS]
    value, low, span, pos = _decode_bit(low, span, pos, data, model, base)
    if value != 0:
        value, low, span, pos = _decode_magnitude_rest(low, span, pos, data, model, base, 1)
        bit, low, span, pos = _decode_bit(low, span, pos, data, model, base + BINS)
        if bit:
            value = -value
    state[_LOW], state[_RANGE], state[_POS] = low, span, pos
    return value


@njit(cache=True, nogil=True, **INLINED)
def decode_run(
    state: NDArray[np.int64],
    data: NDArray[np.uint8],
    model: NDArray[np.int32],
    kind: int,
    values: NDArray[np.int64],
    low: int,
    high: int,
) -> bool:
    """Decode integers of one kind and return whether all lie in [low, high].

    Mirrors :func:`encode_run`.
    """
    before = 0
    inside = True
    for i in range(values.size):
        step = decode_integer(state, data, model, kind)
        before += step
        values[i] = before
        inside &= low <= before <= high and abs(step) < MOST_SIDE
    return inside


@njit(cache=True, nogil=True, **INLINED)
def _decode_column(
    state: NDArray[np.int64],
    data: NDArray[np.uint8],
    model: NDArray[np.int32],
    integers: NDArray[np.int32],
    spread: int,
    rows: NDArray[np.int64],
) -> bool:
    """Decode a column and return whether its numbers are in the range of a writer."""
    shift = 0 if spread < CLASSES else (spread - SHIFT_FROM) >> 2
    cls = spread - 4 * shift
    count = integers.shape[0]
    usual, lively = bounds(int(rows.sum()), count)
    low, span, pos = state[_LOW], state[_RANGE], state[_POS]
    inside = True
    s = np.uint64(0)  # Unsigned, so that no check for a negative index is compiled.
    for i in range(count):
        q = QUANTISER[s]
        base = ((q * CLASSES + cls) * ACTIVITIES + activity(rows[i], usual, lively)) * BINS
        # Most numbers are 0 or 1: these two decisions are taken here, the rest in a call.
        a, low, span, pos = _decode_bit(low, span, pos, data, model, base)
        if a != 0:
            more, low, span, pos = _decode_bit(low, span, pos, data, model, base + 1)
            if more != 0:
                a, low, span, pos = _decode_magnitude_rest(low, span, pos, data, model, base, 2)
        if shift:
            rest, low, span, pos = _decode_raw(low, span, pos, data, shift)
            a = (a << shift) | rest
        if a != 0:
            magnitude = 2 * a - q
            rows[i] += magnitude
            inside &= magnitude <= MOST_NUMBER
            sign, low, span, pos = _decode_raw(low, span, pos, data, 1)
            integers[i] = -magnitude if sign else magnitude
        else:
            integers[i] = 0
        s = np.uint64(NEXT_STATE[s, np.uint64(a & 1)])
    state[_LOW], state[_RANGE], state[_POS] = low, span, pos
    return inside


@njit(cache=True, nogil=True, **INLINED)
def decode_columns(
    state: NDArray[np.int64],
    data: NDArray[np.uint8],
    model: NDArray[np.int32],
    integers: NDArray[np.int32],
    spreads: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> bool:
    """Decode and reconstruct columns: ``integers`` (k, N), in steps; updates ``rows``.

    Returns whether all numbers and all sums of rows are such as a writer writes.
    """
    inside = True
    for j in range(integers.shape[0]):
        for i in range(rows.size):
            inside &= rows[i] < MOST_SUM
        inside &= _decode_column(state, data, model, integers[j], spreads[j], rows)
    return inside
