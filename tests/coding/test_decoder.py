"""The decoder: kept machine code, numba's own and plain Python give equal integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydraopt.coding import decoder, ransdecoder
from hydraopt.coding.decoder import ChunkDecoder
from hydraopt.coding.stream import StreamWriter, quantise_block
from hydraopt.coding.tables import Kind


def decoded(data: bytes, columns: int, rows: int, count: int) -> list[Any]:
    """Everything that a decoder says of a stream: side integers, a block, where it stands."""
    one = ChunkDecoder(data)
    found: list[Any] = []
    for kind in (Kind.COUNT, Kind.EXPONENT):
        values = one.numbers(kind.table, kind.shift, count)
        found.append(None if values is None else values.tolist())
    block = one.block(columns, rows, 0)
    found.append(None if block is None else [x.tolist() for x in block])
    return [*found, one.position, one.passed, one.ended]


def numba_alone(patch: pytest.MonkeyPatch) -> None:
    for name in ("decode_block", "decode_numbers"):
        patch.setattr(decoder, name, getattr(ransdecoder, name).by_numba)


@given(
    data=st.binary(max_size=400),
    columns=st.integers(0, 12),
    rows=st.integers(0, 40),
    count=st.integers(0, 9),
)
def test_any_bytes_mean_the_same_everywhere(
    data: bytes, columns: int, rows: int, count: int
) -> None:
    expected = decoded(data, columns, rows, count)
    with pytest.MonkeyPatch.context() as patch:
        numba_alone(patch)
        assert decoded(data, columns, rows, count) == expected


@pytest.mark.parametrize("code", [True, False])
def test_a_written_block_comes_back(code: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not code:
        numba_alone(monkeypatch)
    rng = np.random.default_rng(3)
    block = quantise_block(rng.standard_normal((300, 6)) * [0.3, 1, 4, 40, 3000, 1e5])
    writer = StreamWriter()
    writer.block(block)
    one = ChunkDecoder(writer.finish())
    found = one.block(6, 300, 0)
    assert found is not None
    assert np.array_equal(found[1], block.integers)
    assert one.ended
