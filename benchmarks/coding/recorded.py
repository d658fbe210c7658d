"""The blocks of a merge, as they go into the streams, each column with what was rounded to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from hydraopt.adapters import Adapter
from hydraopt.coding.chunks import ChunkWriter
from hydraopt.coding.forms import FORMS
from hydraopt.coding.stream import Block, quantise_block
from hydraopt.coding.trellis import reconstruct
from hydraopt.compress.measure import measure_named
from hydraopt.compress.plan import modes_of
from hydraopt.merging.align import align
from hydraopt.merging.budget import Size, parse_size
from hydraopt.merging.options import DEFAULT_MEASURE
from hydraopt.merging.outcome import Job
from hydraopt.merging.passes import Passes
from hydraopt.merging.recipe import MergeRecipe
from hydraopt.merging.solving import Options, solve

__all__ = ["Column", "Recorded", "Stream", "record"]

Integers = NDArray[np.int32]
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """One coded column: levels and integers (N,), the spread class, and ``x`` (N,) in steps."""

    levels: Integers
    integers: Integers
    spread: int
    x: Reals


@dataclass
class Stream:
    """What was written into one stream: blocks in order, side integers (kind, value) counted."""

    blocks: list[Block] = field(default_factory=list)
    sides: int = 0
    data: bytes = b""


@dataclass(frozen=True)
class Recorded:
    """A merge at its final price: the streams that hold anything, and every column of them."""

    streams: list[Stream]
    columns: list[list[list[Column]]]  # by stream, block, column
    coded_bytes: int
    forms: dict[str, int]

    def all_columns(self) -> Iterator[Column]:
        for stream in self.columns:
            for block in stream:
                yield from block

    @property
    def numbers(self) -> int:
        return sum(block.levels.size for stream in self.streams for block in stream.blocks)


class _Recorder:
    """Stands in for the stream writer and the quantiser, and remembers what passes through."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.sources: dict[tuple[int, bytes], Reals] = {}

    def writer(self) -> ChunkWriter:
        made = Stream()
        self.streams.append(made)

        class Writer(ChunkWriter):
            def integer(self, kind: int, value: int) -> None:
                made.sides += 1
                super().integer(kind, value)

            def run(self, kind: int, values: NDArray[np.int64]) -> None:
                made.sides += values.size
                super().run(kind, values)

            def levels(
                self, levels: NDArray[np.int32], spreads: NDArray[np.int64], kind: int
            ) -> None:
                integers = np.empty_like(levels)
                for row, out in zip(levels, integers, strict=True):
                    reconstruct(row, out)
                made.blocks.append(Block(levels, integers, spreads))
                super().levels(levels, spreads, kind)

            def finish(self) -> bytes:
                made.data = super().finish()
                return made.data

        return Writer()

    def quantise(self, x: Reals, *rest: float) -> Block:
        block = quantise_block(x, *rest)
        for j, spread in enumerate(block.spreads.tolist()):
            self.sources[spread, block.levels[j].tobytes()] = x[:, j].copy()
        return block

    def columns(self, block: Block) -> list[Column]:
        return [
            Column(levels, integers, spread, self.sources[spread, levels.tobytes()])
            for levels, integers, spread in zip(
                block.levels, block.integers, block.spreads.tolist(), strict=True
            )
        ]


def record(adapters: Sequence[Adapter], size: str) -> Recorded:
    """Merge to ``size`` in memory, then keep the blocks of a pass at the average price that it
    took; no file is written."""
    pieces = align(list(adapters), None, lossless=False)
    measure = measure_named(DEFAULT_MEASURE)
    budget = Size(parse_size(size, pieces.fp16_bytes))
    recipe = MergeRecipe(measure.name, budget.name, budget.limit, tuple(FORMS))
    found = solve(Job.of(pieces, recipe), budget, Options(measure)).draft
    recorder = _Recorder()
    with (
        patch("hydraopt.merging.servant.ChunkWriter", recorder.writer),
        patch("hydraopt.coding.records.quantise_block", recorder.quantise),
    ):
        passes = Passes(pieces, measure, modes_of(FORMS))
        again = passes.run(found.price, found.weights, found.counting)
    made = {stream.data for stream in recorder.streams}
    if (
        not made >= {again.shared, *again.streams}
        or abs(again.coded_bytes / found.coded_bytes - 1) > 0.01
    ):
        raise RuntimeError("the pass made other bytes: the hook no longer fits")
    streams = [stream for stream in recorder.streams if stream.blocks]
    columns = [[recorder.columns(block) for block in stream.blocks] for stream in streams]
    return Recorded(streams, columns, again.coded_bytes, again.forms)
