"""The door to the decoder: kept machine code, numba's own and plain Python give equal integers."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydraopt.coding import decoder, rangedecoder
from hydraopt.coding.model import new_model
from hydraopt.coding.stream import StreamWriter, quantise_block

needs_code = pytest.mark.skipif(sys.platform != "linux", reason="loaded so on Linux only")


def decoded(home: Any, data: bytes, shape: tuple[int, int], count: int) -> list[Any]:
    """Everything that a decoder says of a stream: side integers, a run, a block, its state."""
    bytes_ = np.frombuffer(data, np.uint8)
    state, model = rangedecoder.new_decoder(bytes_), new_model()
    side = [home.decode_integer(state, bytes_, model, kind) for kind in (0, 7)]
    values = np.empty(count, np.int64)
    inside = home.decode_run(state, bytes_, model, 3, values, -50, 50)
    integers, rows = np.empty(shape, np.int32), np.zeros(shape[1], np.int64)
    spreads = np.arange(shape[0], dtype=np.int64) * 9 % 93
    home.decode_columns(state, bytes_, model, integers, spreads, rows)
    found = [values, integers, rows, state, model]
    return [*map(int, side), bool(inside), *(x.tolist() for x in found)]


@needs_code
def test_the_machine_code_is_there() -> None:
    assert decoder._loops() is not None


@given(
    data=st.binary(max_size=400),
    columns=st.integers(0, 12),
    rows=st.integers(0, 40),
    count=st.integers(0, 9),
)
def test_any_bytes_mean_the_same_everywhere(
    data: bytes, columns: int, rows: int, count: int
) -> None:
    expected = decoded(rangedecoder, data, (columns, rows), count)
    assert decoded(decoder, data, (columns, rows), count) == expected


def test_a_written_block_comes_back() -> None:
    rng = np.random.default_rng(3)
    block = quantise_block(rng.standard_normal((300, 6)) * [0.3, 1, 4, 40, 3000, 1e5])
    writer = StreamWriter()
    writer.block(block, 2)
    data = np.frombuffer(writer.finish(), np.uint8)
    for home in (decoder, rangedecoder):
        state, model = home.new_decoder(data), new_model()
        spreads = np.empty(6, np.int64)
        assert home.decode_run(state, data, model, 2, spreads, 0, 92)
        integers, rows = np.empty((6, 300), np.int32), np.zeros(300, np.int64)
        home.decode_columns(state, data, model, integers, spreads, rows)
        assert np.array_equal(integers, block.integers)


@needs_code
@pytest.mark.parametrize("wrong", ["type", "order", "rows", "spreads", "state"])
def test_arrays_of_another_form_are_refused(wrong: str) -> None:
    data = np.zeros(20, np.uint8)
    state, model = decoder.new_decoder(data), new_model()
    integers, spreads = np.zeros((4, 6), np.int32), np.zeros(4, np.int64)
    rows = np.zeros(6, np.int64)
    if wrong == "type":
        integers = integers.astype(np.int64)  # type: ignore[assignment]
    elif wrong == "order":
        integers = np.zeros((6, 4), np.int32).T
    elif wrong == "rows":
        rows = np.zeros(5, np.int64)
    elif wrong == "spreads":
        spreads = np.zeros(3, np.int64)
    else:
        state = np.zeros(6, np.int64)[::2]
    with pytest.raises(ValueError, match=r"integers, |in one piece"):
        decoder.decode_columns(state, data, model, integers, spreads, rows)
