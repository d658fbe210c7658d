"""Encoder of an adaptive binary range coder over integers only: the same bytes everywhere.

One stream is one byte string. A stream codes columns of trellis levels (see trellis.py) and,
between them, small side integers. The arithmetic is that of the LZMA coder (carry by a cached byte)
with 16-bit probabilities; docs/reference/streams.md is the normative text. The coder's low and
range travel in locals, which keeps them in registers: twice the speed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hydraopt.coding.model import (
    ACTIVITIES,
    BINS,
    CLASSES,
    CONTEXTS,
    FLOOR,
    LIMIT,
    MASK,
    RATE,
    SHIFT_FROM,
    TOP,
    activity,
    bounds,
)
from hydraopt.coding.trellis import NEXT_STATE, QUANTISER
from hydraopt.compiled import LENT, njit

__all__ = [
    "POSITION",
    "encode_columns",
    "encode_integer",
    "encode_run",
    "finish",
    "new_encoder",
    "written",
]

# State, one int64 vector: low, range, cached byte, pending bytes, position.
_LOW, _RANGE, _CACHE, _PENDING, _POS = 0, 1, 2, 3, 4
POSITION = _POS
"""Index of the state's count of final bytes.
The bytes may be taken away, and the count set to 0."""


def new_encoder() -> NDArray[np.int64]:
    """State of an empty stream."""
    return np.array([0, MASK, 0, 1, 0], np.int64)


def written(state: NDArray[np.int64]) -> int:
    """Bytes so far, those that a carry may still change included."""
    return int(state[_POS] + state[_PENDING])


@njit(**LENT)
def _shift_low(state: NDArray[np.int64], out: NDArray[np.uint8], low: int) -> int:
    if low < 0xFF000000 or low > MASK:
        carry = low >> 32
        byte, position = state[_CACHE], state[_POS]
        for _ in range(state[_PENDING]):
            out[np.uint64(position)] = (byte + carry) & 0xFF
            position += 1
            byte = 0xFF
        state[_POS], state[_PENDING] = position, 0
        state[_CACHE] = (low >> 24) & 0xFF
    state[_PENDING] += 1
    return (low & 0x00FFFFFF) << 8


@njit(**LENT, inline="always")
def _encode_bit(
    low: int,
    span: int,
    state: NDArray[np.int64],
    out: NDArray[np.uint8],
    model: NDArray[np.int32],
    ctx: int,
    bit: int,
) -> tuple[int, int]:
    at = np.uint64(ctx)
    known = int(model[at])
    bound = (span >> 16) * (known >> 8)
    # The bit is what cannot be guessed: selected by arithmetic, so that no processor tries to.
    other = bit - 1
    low += bound & other
    span = bound + ((span - 2 * bound) & other)
    # A probability that falls is one that rises, seen from the other end.
    p, count = known >> 8, known & 255
    sign = 1 - 2 * bit
    step = (((65536 & -bit) + p * sign) * int(RATE[np.uint64(count)])) >> 16
    p = min(max(p - step * sign, FLOOR), 65536 - FLOOR)
    model[at] = (p << 8) | min(count + 1, LIMIT)
    while span < TOP:
        span <<= 8
        low = _shift_low(state, out, low)
    return low, span


@njit(**LENT, inline="always")
def _encode_raw(
    low: int, span: int, state: NDArray[np.int64], out: NDArray[np.uint8], value: int, width: int
) -> tuple[int, int]:
    for i in range(width - 1, -1, -1):
        span >>= 1
        low += span & -((value >> i) & 1)
        while span < TOP:
            span <<= 8
            low = _shift_low(state, out, low)
    return low, span


@njit(**LENT, inline="always")
def _encode_magnitude_rest(
    low: int,
    span: int,
    state: NDArray[np.int64],
    out: NDArray[np.uint8],
    model: NDArray[np.int32],
    base: int,
    value: int,
) -> tuple[int, int]:
    """Encode a magnitude above zero."""
    for j in range(1, min(value, BINS - 2) + 1):
        low, span = _encode_bit(low, span, state, out, model, base + j, 1 if value > j else 0)
    if value < BINS - 1:
        return low, span
    rest = value - (BINS - 1) + 1
    width = 0
    while (rest >> (width + 1)) > 0:
        width += 1
        low, span = _encode_bit(low, span, state, out, model, base + BINS - 1, 1)
    low, span = _encode_bit(low, span, state, out, model, base + BINS - 1, 0)
    return _encode_raw(low, span, state, out, rest, width)


@njit(**LENT)
def encode_integer(
    state: NDArray[np.int64],
    out: NDArray[np.uint8],
    model: NDArray[np.int32],
    kind: int,
    value: int,
) -> None:
    """Append a signed side integer of a kind in [0, SIDE_CONTEXTS); |value| < 2^31."""
    base = CONTEXTS + kind * 2 * BINS
    low, span = state[_LOW], state[_RANGE]
    low, span = _encode_bit(low, span, state, out, model, base, 1 if value != 0 else 0)
    if value != 0:
        low, span = _encode_magnitude_rest(low, span, state, out, model, base, abs(value))
        low, span = _encode_bit(low, span, state, out, model, base + BINS, 1 if value < 0 else 0)
    state[_LOW], state[_RANGE] = low, span


@njit(**LENT)
def encode_run(
    state: NDArray[np.int64],
    out: NDArray[np.uint8],
    model: NDArray[np.int32],
    kind: int,
    values: NDArray[np.int64],
) -> None:
    """Append integers of one kind, each as its difference to the one before, the first to 0."""
    before = 0
    for value in values:
        encode_integer(state, out, model, kind, value - before)
        before = value


@njit(**LENT)
def _encode_column(
    state: NDArray[np.int64],
    out: NDArray[np.uint8],
    model: NDArray[np.int32],
    levels: NDArray[np.int32],
    spread: int,
    rows: NDArray[np.int64],
) -> None:
    shift = 0 if spread < CLASSES else (spread - SHIFT_FROM) >> 2
    cls = spread - 4 * shift
    count = levels.shape[0]
    usual, lively = bounds(int(rows.sum()), count)
    low, span = state[_LOW], state[_RANGE]
    s = 0
    for i in range(count):
        k = levels[i]
        a = abs(k)
        q = QUANTISER[s]
        base = ((q * CLASSES + cls) * ACTIVITIES + activity(rows[i], usual, lively)) * BINS
        high = a >> shift
        low, span = _encode_bit(low, span, state, out, model, base, 1 if high != 0 else 0)
        if high != 0:
            low, span = _encode_magnitude_rest(low, span, state, out, model, base, high)
        if shift:
            low, span = _encode_raw(low, span, state, out, a & ((1 << shift) - 1), shift)
        if k != 0:
            low, span = _encode_raw(low, span, state, out, 1 if k < 0 else 0, 1)
            rows[i] += 2 * a - q
        s = NEXT_STATE[s, k & 1]
    state[_LOW], state[_RANGE] = low, span


@njit(**LENT)
def encode_columns(
    state: NDArray[np.int64],
    out: NDArray[np.uint8],
    model: NDArray[np.int32],
    levels: NDArray[np.int32],
    spreads: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> None:
    """Append columns of levels (k, N) of the spread classes (k,); updates ``rows`` (N,).

    ``out`` must have 16 k N + 64 free bytes. ``rows`` sums |integer| of a block's earlier columns.
    """
    for j in range(levels.shape[0]):
        _encode_column(state, out, model, levels[j], spreads[j], rows)


@njit(**LENT)
def finish(state: NDArray[np.int64], out: NDArray[np.uint8]) -> int:
    """Flush; returns the length, trailing zero bytes dropped: a decoder reads zeros there."""
    for _ in range(5):
        state[_LOW] = _shift_low(state, out, state[_LOW])
    end = state[_POS]
    while end > 0 and out[end - 1] == 0:
        end -= 1
    return int(end)
