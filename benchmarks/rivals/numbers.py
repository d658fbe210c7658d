"""Codes of plain numbers: fp16, groups of few bits with a scale, NF4.

A code turns vectors into named arrays and back; what is not stored has to be known: the sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rivals.base import Floats

__all__ = ["FP16", "GROUP", "NF4", "NF4_LEVELS", "Code", "grouped", "pack_bits", "unpack_bits"]

GROUP = 32
_NF4_GROUP = 64

_CANDIDATES = np.linspace(0.4, 1.05, 27)
"""Scales tried, as fractions of what makes the largest of a group the last level."""

NF4_LEVELS = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
     -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
     0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32
)  # fmt: skip
"""Dettmers et al., QLoRA, arXiv 2305.14314, appendix E."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Code:
    """encode: vectors to arrays. decode: arrays and the vectors' sizes to vectors in float32."""

    encode: Callable[[Sequence[Floats]], Arrays]
    decode: Callable[[Arrays, Sequence[int]], list[Floats]]


def pack_bits(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return codes below 2^bits, packed in ``bits`` each."""
    planes = np.unpackbits(codes.reshape(-1, 1), axis=1, bitorder="little", count=bits)
    return np.packbits(planes.ravel(), bitorder="little")


def unpack_bits(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Return the first ``count`` codes of :func:`pack_bits`."""
    planes = np.unpackbits(packed, bitorder="little", count=count * bits).reshape(count, bits)
    return np.packbits(planes, axis=1, bitorder="little")[:, 0]


def _split(flat: Floats, sizes: Sequence[int], group: int = 1) -> list[Floats]:
    """Return vectors of these sizes, each of which begins at a multiple of ``group``."""
    edges = np.cumsum([0, *(size + -size % group for size in sizes)])
    return [flat[a : a + size] for a, size in zip(edges, sizes, strict=False)]


def _groups(vectors: Sequence[Floats], group: int) -> Floats:
    # The last entry again, not zeros, which are no level and would pull at the scale.
    padded = [np.pad(x, (0, -x.size % group), mode="edge") for x in vectors]
    return np.concatenate([np.zeros(0, np.float32), *padded]).reshape(-1, group)


FP16 = Code(
    lambda vectors: {"numbers": np.concatenate([np.zeros(0), *vectors]).astype(np.float16)},
    lambda arrays, sizes: _split(arrays["numbers"].astype(np.float32), sizes),
)


def _round(groups: Floats, bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Return codes and scales of groups (G, 32), each scale that with the least squared error."""
    half = (2**bits - 1) / 2
    largest = np.abs(groups).max(axis=1, initial=0)
    best = np.full(groups.shape[0], np.inf)
    scales = np.zeros(groups.shape[0], np.float16)
    codes = np.zeros(groups.shape, np.uint8)
    for fraction in _CANDIDATES:
        scale = (fraction * largest / half).astype(np.float16)
        step = np.where(scale > 0, scale, 1).astype(np.float32)[:, None]
        found = np.clip(np.rint(groups / step + half), 0, 2 * half)
        error = np.square((found - half) * scale.astype(np.float32)[:, None] - groups).sum(axis=1)
        better = error < best
        best[better], scales[better] = error[better], scale[better]
        codes[better] = found[better].astype(np.uint8)
    return codes, scales


def grouped(bits: int) -> Code:
    """Return a code of symmetric levels without a zero, in groups of 32.

    Each group has an fp16 scale of least squared error.
    """

    def encode(vectors: Sequence[Floats]) -> Arrays:
        codes, scales = _round(_groups(vectors, GROUP), bits)
        return {"codes": pack_bits(codes, bits), "scales": scales}

    def decode(arrays: Arrays, sizes: Sequence[int]) -> list[Floats]:
        scales = arrays["scales"].astype(np.float32)
        codes = unpack_bits(arrays["codes"], bits, scales.size * GROUP).astype(np.float32)
        values = (codes.reshape(-1, GROUP) - np.float32((2**bits - 1) / 2)) * scales[:, None]
        return _split(values.ravel(), sizes, GROUP)

    return Code(encode, decode)


def _encode_nf4(vectors: Sequence[Floats]) -> Arrays:
    groups = _groups(vectors, _NF4_GROUP)
    scales = np.abs(groups).max(axis=1, initial=0).astype(np.float16)
    step = np.where(scales > 0, scales, 1).astype(np.float32)[:, None]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(NF4_LEVELS)]
    codes = np.searchsorted(middles, groups / step).astype(np.uint8)
    return {"codes": pack_bits(codes, 4), "scales": scales}


def _decode_nf4(arrays: Arrays, sizes: Sequence[int]) -> list[Floats]:
    scales = arrays["scales"].astype(np.float32)
    codes = unpack_bits(arrays["codes"], 4, scales.size * _NF4_GROUP).reshape(-1, _NF4_GROUP)
    return _split((NF4_LEVELS[codes] * scales[:, None]).ravel(), sizes, _NF4_GROUP)


NF4 = Code(_encode_nf4, _decode_nf4)
"""16 levels of a normal distribution, blocks of 64 with their largest entry in fp16; QLoRA keeps
that in fp32 or rounds it once more."""
