"""An adaptive binary range coder over integers only: the same bytes and bits on every machine.

One stream is one byte string. A stream codes columns of trellis levels (see trellis.py) and,
between them, small side integers. Every binary decision has its own probability, learned while
coding; the learning rate is 1/(count + 1.6), so a fresh context learns at once and an old one is
steady. No table is sent. The arithmetic is that of the LZMA coder (carry by a cached byte) with
16-bit probabilities; docs/format.md is the normative text and holds a decoder in C.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hydraopt.coding.trellis import NEXT_STATE, QUANTISER

__all__ = [
    "ACTIVITIES",
    "BINS",
    "CLASSES",
    "CONTEXTS",
    "MODEL_SIZE",
    "RATE",
    "SHIFT_FROM",
    "SIDE_CONTEXTS",
    "activity",
    "decode_column",
    "decode_integer",
    "encode_column",
    "encode_integer",
    "finish",
    "new_decoder",
    "new_encoder",
    "new_model",
]

CLASSES = 29
"""Spread classes with contexts of their own; a class is round(4 log2(spread in steps)) + 16."""
SHIFT_FROM = 25
"""Above CLASSES, low bits are sent raw until the class falls back into [SHIFT_FROM, CLASSES)."""
ACTIVITIES = 3
BINS = 16
"""Decisions per context set: zero?, then unary up to BINS - 1, then an Exp-Golomb rest."""
SIDE_CONTEXTS = 8
"""Kinds of side integers that learn apart."""
CONTEXTS = 2 * CLASSES * ACTIVITIES * BINS
MODEL_SIZE = CONTEXTS + SIDE_CONTEXTS * 2 * BINS

_LIMIT = 255
RATE: NDArray[np.int64] = np.array([655360 // (10 * n + 16) for n in range(_LIMIT + 1)], np.int64)
"""RATE[count] = floor(65536 / (count + 1.6)); part of the format."""
_FLOOR = 64
_TOP = 1 << 24
_MASK = 0xFFFFFFFF

# Coder state, one int64 vector: low, range, cached byte, pending bytes, position.
_LOW, _RANGE, _CACHE, _PENDING, _POS = 0, 1, 2, 3, 4
# The decoder keeps its code word where the encoder keeps low.


def new_model() -> NDArray[np.int32]:
    """Fresh contexts, (MODEL_SIZE, 2): probability of a 1 in 1/65536, and the count so far."""
    model = np.zeros((MODEL_SIZE, 2), np.int32)
    model[:, 0] = 32768
    return model


def new_encoder() -> NDArray[np.int64]:
    """State of an empty stream."""
    return np.array([0, _MASK, 0, 1, 0], np.int64)


@njit(cache=True, nogil=True)
def _shift_low(state: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    low = state[_LOW]
    if low < 0xFF000000 or low > _MASK:
        carry = low >> 32
        byte = state[_CACHE]
        while state[_PENDING] > 0:
            out[state[_POS]] = (byte + carry) & 0xFF
            state[_POS] += 1
            byte = 0xFF
            state[_PENDING] -= 1
        state[_CACHE] = (low >> 24) & 0xFF
    state[_PENDING] += 1
    state[_LOW] = (low & 0x00FFFFFF) << 8


@njit(cache=True, nogil=True)
def _encode_bit(
    state: NDArray[np.int64], out: NDArray[np.uint8], model: NDArray[np.int32], ctx: int, bit: int
) -> None:
    p = model[ctx, 0]
    count = model[ctx, 1]
    bound = (state[_RANGE] >> 16) * p
    if bit:
        state[_RANGE] = bound
        model[ctx, 0] = min(p + (((65536 - p) * RATE[count]) >> 16), 65536 - _FLOOR)
    else:
        state[_LOW] += bound
        state[_RANGE] -= bound
        model[ctx, 0] = max(p - ((p * RATE[count]) >> 16), _FLOOR)
    if count < _LIMIT:
        model[ctx, 1] = count + 1
    while state[_RANGE] < _TOP:
        state[_RANGE] <<= 8
        _shift_low(state, out)


@njit(cache=True, nogil=True)
def _encode_raw(state: NDArray[np.int64], out: NDArray[np.uint8], value: int, width: int) -> None:
    for i in range(width - 1, -1, -1):
        state[_RANGE] >>= 1
        if (value >> i) & 1:
            state[_LOW] += state[_RANGE]
        while state[_RANGE] < _TOP:
            state[_RANGE] <<= 8
            _shift_low(state, out)


@njit(cache=True, nogil=True)
def _encode_magnitude(
    state: NDArray[np.int64],
    out: NDArray[np.uint8],
    model: NDArray[np.int32],
    base: int,
    value: int,
) -> None:
    for j in range(BINS - 1):
        if value <= j:
            _encode_bit(state, out, model, base + j, 0)
            return
        _encode_bit(state, out, model, base + j, 1)
    rest = value - (BINS - 1) + 1
    width = 0
    while (rest >> (width + 1)) > 0:
        width += 1
        _encode_bit(state, out, model, base + BINS - 1, 1)
    _encode_bit(state, out, model, base + BINS - 1, 0)
    _encode_raw(state, out, rest, width)


@njit(cache=True, nogil=True)
def encode_integer(
    state: NDArray[np.int64],
    out: NDArray[np.uint8],
    model: NDArray[np.int32],
    kind: int,
    value: int,
) -> None:
    """Append a signed side integer of a kind in [0, SIDE_CONTEXTS); |value| < 2^31."""
    base = CONTEXTS + kind * 2 * BINS
    _encode_magnitude(state, out, model, base, abs(value))
    if value != 0:
        _encode_bit(state, out, model, base + BINS, 1 if value < 0 else 0)


@njit(cache=True, nogil=True)
def activity(row: int, total: int, count: int) -> int:
    """0, 1 or 2: is the row quiet, usual or lively in the columns decoded so far?

    row: sum of |integer| over the row; total: over all ``count`` rows.
    """
    if 10 * row * count < 7 * total:
        return 0
    return 1 if 10 * row * count < 13 * total else 2


@njit(cache=True, nogil=True)
def encode_column(
    state: NDArray[np.int64],
    out: NDArray[np.uint8],
    model: NDArray[np.int32],
    levels: NDArray[np.int32],
    spread: int,
    rows: NDArray[np.int64],
) -> None:
    """Append one column of levels (N,) of spread class ``spread``; updates ``rows`` (N,).

    ``out`` must have 16 N + 64 free bytes. ``rows`` sums |integer| of earlier columns of the block.
    """
    shift = 0 if spread < CLASSES else (spread - SHIFT_FROM) >> 2
    cls = spread - 4 * shift
    count = levels.shape[0]
    total = rows.sum()
    s = 0
    for i in range(count):
        k = levels[i]
        a = abs(k)
        q = QUANTISER[s]
        base = ((q * CLASSES + cls) * ACTIVITIES + activity(rows[i], total, count)) * BINS
        _encode_magnitude(state, out, model, base, a >> shift)
        if shift:
            _encode_raw(state, out, a & ((1 << shift) - 1), shift)
        if k != 0:
            _encode_raw(state, out, 1 if k < 0 else 0, 1)
            rows[i] += 2 * a - q
        s = NEXT_STATE[s, k & 1]


@njit(cache=True, nogil=True)
def finish(state: NDArray[np.int64], out: NDArray[np.uint8]) -> int:
    """Flush; returns the length, trailing zero bytes dropped: a decoder reads zeros there."""
    for _ in range(5):
        _shift_low(state, out)
    end = state[_POS]
    while end > 0 and out[end - 1] == 0:
        end -= 1
    return int(end)


@njit(cache=True, nogil=True)
def new_decoder(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """State at the start of a stream; bytes past its end read as zero."""
    state = np.zeros(5, np.int64)
    state[_RANGE] = _MASK
    for i in range(5):
        state[_LOW] = ((state[_LOW] << 8) | (data[i] if i < data.shape[0] else 0)) & _MASK
    state[_POS] = 5
    return state


@njit(cache=True, nogil=True, inline="always")
def _byte(data: NDArray[np.uint8], pos: int) -> int:
    return np.int64(data[pos]) if pos < data.shape[0] else 0  # type: ignore[return-value]


@njit(cache=True, nogil=True, inline="always")
def _decode_bit(
    low: int, span: int, pos: int, data: NDArray[np.uint8], model: NDArray[np.int32], ctx: int
) -> tuple[int, int, int, int]:
    # The coder's state travels in locals, which keeps it in registers: twice the speed.
    p = model[ctx, 0]
    count = model[ctx, 1]
    bound = (span >> 16) * p
    if low < bound:
        span = bound
        model[ctx, 0] = min(p + (((65536 - p) * RATE[count]) >> 16), 65536 - _FLOOR)
        bit = 1
    else:
        low -= bound
        span -= bound
        model[ctx, 0] = max(p - ((p * RATE[count]) >> 16), _FLOOR)
        bit = 0
    if count < _LIMIT:
        model[ctx, 1] = count + 1
    while span < _TOP:
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
        while span < _TOP:
            low = (low << 8) | _byte(data, pos)
            pos += 1
            span <<= 8
    return value, low, span, pos


@njit(cache=True, nogil=True)
def _decode_magnitude_rest(
    low: int, span: int, pos: int, data: NDArray[np.uint8], model: NDArray[np.int32], base: int
) -> tuple[int, int, int, int]:
    """A magnitude that is known not to be zero."""
    for j in range(1, BINS - 1):
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


@njit(cache=True, nogil=True)
def decode_integer(
    state: NDArray[np.int64], data: NDArray[np.uint8], model: NDArray[np.int32], kind: int
) -> int:
    """The next side integer; mirrors :func:`encode_integer`."""
    base = CONTEXTS + kind * 2 * BINS
    low, span, pos = state[_LOW], state[_RANGE], state[_POS]
    value, low, span, pos = _decode_bit(low, span, pos, data, model, base)
    if value != 0:
        value, low, span, pos = _decode_magnitude_rest(low, span, pos, data, model, base)
        bit, low, span, pos = _decode_bit(low, span, pos, data, model, base + BINS)
        if bit:
            value = -value
    state[_LOW], state[_RANGE], state[_POS] = low, span, pos
    return value


@njit(cache=True, nogil=True)
def decode_column(
    state: NDArray[np.int64],
    data: NDArray[np.uint8],
    model: NDArray[np.int32],
    integers: NDArray[np.int32],
    spread: int,
    rows: NDArray[np.int64],
) -> None:
    """The next column, already reconstructed: ``integers`` (N,) in steps; updates ``rows`` (N,)."""
    shift = 0 if spread < CLASSES else (spread - SHIFT_FROM) >> 2
    cls = spread - 4 * shift
    count = integers.shape[0]
    total = rows.sum()
    low, span, pos = state[_LOW], state[_RANGE], state[_POS]
    s = 0
    for i in range(count):
        q = QUANTISER[s]
        base = ((q * CLASSES + cls) * ACTIVITIES + activity(rows[i], total, count)) * BINS
        # Most numbers are zero: that one decision is taken here, the rest in a call.
        a, low, span, pos = _decode_bit(low, span, pos, data, model, base)
        if a != 0:
            a, low, span, pos = _decode_magnitude_rest(low, span, pos, data, model, base)
        if shift:
            rest, low, span, pos = _decode_raw(low, span, pos, data, shift)
            a = (a << shift) | rest
        if a != 0:
            magnitude = 2 * a - q
            rows[i] += magnitude
            sign, low, span, pos = _decode_raw(low, span, pos, data, 1)
            integers[i] = -magnitude if sign else magnitude
        else:
            integers[i] = 0
        s = NEXT_STATE[s, a & 1]
    state[_LOW], state[_RANGE], state[_POS] = low, span, pos
