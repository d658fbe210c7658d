"""Coders for the same levels. Each takes all streams, returns bytes and speed, checks itself.

A stream is a list of (levels, class) pairs, one a column. What a decoder must know beyond the
levels (counts, spread classes, exponents) is the same for all coders and is not counted here.
"""

from __future__ import annotations

import lzma
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
import zstandard
from numpy.typing import NDArray

from benchmarks.coding.recorded import Integers, Stream
from hydraopt.coding.model import new_model
from hydraopt.coding.rangedecoder import decode_columns, new_decoder
from hydraopt.coding.rangeencoder import encode_columns, finish, new_encoder

__all__ = ["Outcome", "ans", "ours", "planes", "queue"]


@dataclass(frozen=True)
class Outcome:
    """Bytes of the levels, bytes of tables that must be sent, seconds to encode and decode."""

    levels: int
    tables: int
    encode: float
    decode: float


def _fastest(run: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - started)
    return result, min(times)


def ours(streams: Sequence[Stream], repeats: int = 5) -> Outcome:
    """hydraopt's adaptive binary range coder, fed with the columns alone."""

    def encode(stream: Stream) -> NDArray[np.uint8]:
        state, model = new_encoder(), new_model()
        out = np.zeros(16 * sum(b.levels.size for b in stream.blocks) + 4096, np.uint8)
        for block in stream.blocks:
            rows = np.zeros(block.levels.shape[1], np.int64)
            encode_columns(state, out, model, block.levels, block.spreads, rows)
        return out[: finish(state, out)].copy()

    def decode(stream: Stream, data: NDArray[np.uint8]) -> list[Integers]:
        state, model = new_decoder(data), new_model()
        found = []
        for block in stream.blocks:
            rows = np.zeros(block.levels.shape[1], np.int64)
            integers = np.empty(block.levels.shape, np.int32)
            decode_columns(state, data, model, integers, block.spreads, rows)
            found.append(integers)
        return found

    coded, encoding = _fastest(lambda: [encode(s) for s in streams], repeats)
    back, decoding = _fastest(
        lambda: [decode(s, d) for s, d in zip(streams, coded, strict=True)], repeats
    )
    for stream, blocks in zip(streams, back, strict=True):
        for block, integers in zip(stream.blocks, blocks, strict=True):
            assert np.array_equal(block.integers, integers)
    return Outcome(sum(map(len, coded)), 0, encoding, decoding)


def _by_class(stream: Stream) -> list[tuple[int, Integers]]:
    """A stream's levels, all columns of a class end to end, so that one call codes a class."""
    groups: dict[int, list[Integers]] = defaultdict(list)
    for block in stream.blocks:
        for levels, spread in zip(block.levels, block.spreads, strict=True):
            groups[spread].append(levels)
    return [(spread, np.concatenate(parts)) for spread, parts in sorted(groups.items())]


Models = dict[int, tuple[Any, int]]


def _models(groups: Sequence[list[tuple[int, Integers]]], family: str) -> tuple[Models, int]:
    """A static model and offset for each class, and the bytes that tell a decoder of them."""
    pooled: dict[int, list[Integers]] = defaultdict(list)
    for stream in groups:
        for spread, levels in stream:
            pooled[spread].append(levels)
    models: Models = {}
    tables = b""
    for spread, parts in sorted(pooled.items()):
        levels = np.concatenate(parts)
        low, high = int(levels.min()), int(levels.max())
        tables += np.array([spread, low, high], np.int16).tobytes()
        if family == "gaussian":
            deviation = max(float(np.float16(levels.std())), 1e-3)
            tables += np.float16(deviation).tobytes()
            top = max(high, low + 1)
            model = constriction.stream.model.QuantizedGaussian(low, top, 0.0, deviation)
            models[spread] = (model, 0)
            continue
        counts = np.bincount(levels - low, minlength=max(high - low + 1, 2))
        rounded = np.maximum(np.rint(counts / counts.max() * 4095), counts > 0)
        tables += rounded.astype(np.uint16).tobytes()
        chances = np.maximum(rounded, 0.01).astype(np.float32)
        model = constriction.stream.model.Categorical(chances, perfect=False)
        models[spread] = (model, low)
    return models, len(zlib.compress(tables, 9))


def _constriction(streams: Sequence[Stream], family: str, stack: bool, repeats: int) -> Outcome:
    groups = [_by_class(stream) for stream in streams]
    models, tables = _models(groups, family)
    ready = [
        [(models[spread][0], (levels - models[spread][1]).astype(np.int32)) for spread, levels in g]
        for g in groups
    ]

    def encode(group: list[tuple[Any, Integers]]) -> NDArray[np.uint32]:
        if stack:
            coder = constriction.stream.stack.AnsCoder()
            for model, symbols in reversed(group):
                coder.encode_reverse(symbols, model)
        else:
            coder = constriction.stream.queue.RangeEncoder()
            for model, symbols in group:
                coder.encode(symbols, model)
        words: NDArray[np.uint32] = coder.get_compressed()
        return words

    def decode(group: list[tuple[Any, Integers]], data: NDArray[np.uint32]) -> list[Integers]:
        kind = constriction.stream
        coder = kind.stack.AnsCoder(data) if stack else kind.queue.RangeDecoder(data)
        return [coder.decode(model, symbols.size) for model, symbols in group]

    coded, encoding = _fastest(lambda: [encode(g) for g in ready], repeats)
    back, decoding = _fastest(
        lambda: [decode(g, d) for g, d in zip(ready, coded, strict=True)], repeats
    )
    for group, found in zip(ready, back, strict=True):
        for (_, symbols), integers in zip(group, found, strict=True):
            assert np.array_equal(symbols, integers)
    return Outcome(4 * sum(map(len, coded)), tables, encoding, decoding)


def ans(streams: Sequence[Stream], family: str, repeats: int = 3) -> Outcome:
    """constriction's ANS coder; family "categorical" or "gaussian", one model a class."""
    return _constriction(streams, family, True, repeats)


def queue(streams: Sequence[Stream], family: str, repeats: int = 3) -> Outcome:
    """constriction's range coder with the same models."""
    return _constriction(streams, family, False, repeats)


_Packer = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]
_PACKERS: dict[str, _Packer] = {
    "zstd -19": (
        lambda data: zstandard.ZstdCompressor(level=19).compress(data),
        lambda data: zstandard.ZstdDecompressor().decompress(data),
    ),
    "zlib -9": (lambda data: zlib.compress(data, 9), zlib.decompress),
    "lzma -9e": (
        lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
        lzma.decompress,
    ),
}


def planes(streams: Sequence[Stream], name: str, repeats: int = 3) -> Outcome:
    """A general compressor on two byte planes of the levels, signs folded into the lowest bit."""
    pack, unpack = _PACKERS[name]
    wide = []
    for stream in streams:
        levels = np.concatenate([block.levels.ravel() for block in stream.blocks])
        folded = ((levels << 1) ^ (levels >> 31)).astype(np.uint32)
        assert folded.max() < 1 << 16, "levels need a third plane"
        wide.append(folded.astype("<u2"))

    def encode(folded: NDArray[np.uint16]) -> tuple[bytes, bytes]:
        split = folded.view(np.uint8).reshape(-1, 2)
        return pack(split[:, 0].tobytes()), pack(split[:, 1].tobytes())

    def decode(data: tuple[bytes, bytes]) -> NDArray[np.uint16]:
        low, high = (np.frombuffer(unpack(plane), np.uint8) for plane in data)
        return np.stack([low, high], axis=1).reshape(-1).view("<u2")

    coded, encoding = _fastest(lambda: [encode(x) for x in wide], 1)
    back, decoding = _fastest(lambda: [decode(x) for x in coded], repeats)
    assert all(np.array_equal(x, y) for x, y in zip(wide, back, strict=True))
    return Outcome(sum(len(a) + len(b) for a, b in coded), 0, encoding, decoding)
