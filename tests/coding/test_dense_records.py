"""Records of dense tensors: what is written comes back, and what no writer writes is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from hydraopt.codec import (
    DenseRecord,
    PartsRecord,
    StreamReader,
    Way,
    as_matrix,
    from_matrix,
    matrix_shape,
    read_common,
    read_dense,
    write_dense,
)
from hydraopt.codec.records import quantise_rest, step_of
from hydraopt.codec.sides import quantise_side
from hydraopt.codec.stream import StreamWriter
from hydraopt.codec.tables import Kind
from hydraopt.errors import BundleFormatError, NumericalError
from tests.raising import raises


def numbers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def back(record: DenseRecord, shape: tuple[int, int], common: bool = False) -> DenseRecord:
    writer = StreamWriter()
    write_dense(writer, record)
    data = writer.finish()
    reader = StreamReader(data)
    again = read_dense(reader, shape, common)
    assert reader.position == len(data)
    return again


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (5, 3), (4, 2, 3), (2, 3, 4), (1, 9)])
def test_a_tensor_is_its_matrix(shape: tuple[int, ...]) -> None:
    x = numbers(shape)
    matrix = as_matrix(x)
    assert matrix.shape == matrix_shape(shape)
    assert matrix.shape[0] >= matrix.shape[1]
    np.testing.assert_array_equal(from_matrix(matrix, shape), x)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 6),
    exponent=st.integers(-3000, 3000),
    seed=st.integers(0, 99),
    offsets=st.booleans(),
    some=st.booleans(),
    parts=st.integers(0, 2),
    common=st.booleans(),
)
def test_a_record_comes_back(
    rows: int,
    columns: int,
    exponent: int,
    seed: int,
    offsets: bool,
    some: bool,
    parts: int,
    common: bool,
) -> None:
    rng = np.random.default_rng(seed)
    named = np.flatnonzero(rng.random(rows) < 0.4) if some else None
    coded = rows if named is None else named.size
    x = 3 * step_of(exponent) * rng.standard_normal((coded, columns))
    less = rng.integers(-900, 900, columns) if offsets else None
    left, right = (
        quantise_side(2 * rng.standard_normal((n, parts)), Way.EXPLICIT, None)
        for n in (rows, columns)
    )
    record = DenseRecord(
        PartsRecord(left, right, rng.integers(-99, 99, parts)) if parts else None,
        quantise_rest(x, exponent, named, less),
        common,
    )
    again = back(record, (rows, columns), common=True)
    reference = rng.standard_normal((rows, columns))
    np.testing.assert_array_equal(again.values(reference), record.values(reference))
    assert again.common == common
    if parts == 0 and named is not None:
        unnamed = np.setdiff1d(np.arange(rows), named)
        np.testing.assert_array_equal(again.values(reference)[unnamed], reference[unnamed])


def test_large_tensors_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hydraopt.codec.records.BLOCK", 64)
    x = numbers((50, 5))
    rest = quantise_rest(x, -400)
    assert [block.levels.shape[1] for block in rest.blocks] == [12, 12, 12, 12, 2]
    again = back(DenseRecord(rest=rest), (50, 5))
    np.testing.assert_allclose(again.values(np.zeros((50, 5))), x, atol=3 * step_of(-400))


def test_the_step_is_what_it_says() -> None:
    for exponent in (-1000, -257, -8, -1, 0, 3, 255, 4001):
        assert step_of(exponent) == pytest.approx(2 ** (exponent / 256), rel=1e-8)


def test_nothing_is_written_as_nothing() -> None:
    again = back(DenseRecord(), (1000, 1000))
    assert again == DenseRecord()


def stream(*integers: tuple[Kind, int]) -> StreamReader:
    writer = StreamWriter()
    for kind, value in integers:
        writer.integer(kind, value)
    return StreamReader(writer.finish())


@pytest.mark.parametrize(
    ("integers", "facts"),
    [
        ([(Kind.COUNT, 32)], {"got": "what a tensor's record has is 32, expected 0 to 31"}),
        ([(Kind.COUNT, 8)], {"got": "a tensor's record has 8"}),
        ([(Kind.COUNT, 16)], {"got": "a tensor's record has 16"}),
        ([(Kind.COUNT, 4)], {"got": "a tensor's record has 4"}),
        (
            [(Kind.COUNT, 1), (Kind.EXPONENT, 6401)],
            {"got": "an exponent is 6401 or 6401, expected -6400 to 6400"},
        ),
        (
            [(Kind.COUNT, 1), (Kind.EXPONENT, 0), (Kind.COUNT, 8)],
            {"got": "a step is 8, expected 0 to 7"},
        ),
        (
            [(Kind.COUNT, 9), (Kind.EXPONENT, 0), (Kind.COUNT, 0), (Kind.COUNT, 7)],
            {"got": "the number of rows is 7, expected 0 to 6"},
        ),
        (
            [(Kind.COUNT, 9), (Kind.EXPONENT, 0), *[(Kind.COUNT, x) for x in (0, 2, 3, 0)]],
            {"got": "rows of a tensor are not rising"},
        ),
        (
            [(Kind.COUNT, 9), (Kind.EXPONENT, 0), *[(Kind.COUNT, x) for x in (0, 2, 3, 3)]],
            {"got": "a row is 3 or 6, expected 0 to 5"},
        ),
        (
            [(Kind.COUNT, 17), (Kind.EXPONENT, 0), (Kind.COUNT, 0), (Kind.COUNT, 1 << 25)],
            {},
        ),
    ],
)
def test_what_no_writer_writes_is_refused(
    integers: list[tuple[Kind, int]], facts: dict[str, object]
) -> None:
    with raises(BundleFormatError, **facts):
        read_dense(stream(*integers), (6, 2), has_common=False)


def test_what_is_named_is_counted_before_it_is_made() -> None:
    told: list[int] = []

    def spend(count: int) -> None:
        told.append(count)
        raise MemoryError

    def spent(what: int, *more: int) -> list[int]:
        writer = StreamWriter()
        for kind, value in ((Kind.COUNT, what), (Kind.EXPONENT, 0), (Kind.COUNT, 0)):
            writer.integer(kind, value)
        for value in more:
            writer.integer(Kind.COUNT, value)
        told.clear()
        reader = StreamReader(writer.finish(), spend)
        with pytest.raises(MemoryError):
            read_dense(reader, (1 << 29, 5), False, bounded=True)
        return told

    assert spent(9, 1 << 28) == [5 << 28]
    assert spent(25, 0) == [5]


def test_what_is_written_counts_as_it_does_when_read() -> None:
    told: list[int] = []
    block = numbers((2, 3))
    record = DenseRecord(rest=quantise_rest(block, 0, np.array([4, 9]), np.array([1, 2, 3])))
    writer = StreamWriter()
    write_dense(writer, record)
    data = writer.finish()
    for bounded in (False, True):
        told.clear()
        read_dense(StreamReader(data, told.append), (10, 3), False, bounded=bounded)
        assert sum(told) == record.numbers(30, bounded)


def test_a_step_out_of_range_is_refused_by_the_writer() -> None:
    rest = quantise_rest(numbers((4, 1)), 0)
    far = DenseRecord(rest=type(rest)(8 * 6401, rest.blocks))
    with raises(NumericalError, got="a coefficient of 2^+-200"):
        write_dense(StreamWriter(), far)


def test_what_is_shared_is_whole() -> None:
    def shared(record: DenseRecord) -> DenseRecord | None:
        writer = StreamWriter()
        write_dense(writer, record)
        return read_common(StreamReader(writer.finish()), (9, 2))

    assert shared(DenseRecord()) is None
    whole = DenseRecord(rest=quantise_rest(numbers((9, 2)), -99))
    again = shared(whole)
    assert again is not None
    np.testing.assert_array_equal(again.values(np.zeros((9, 2))), whole.values(np.zeros((9, 2))))
    sides = (quantise_side(2 * numbers((n, 1)), Way.EXPLICIT, None) for n in (9, 2))
    for odd in (
        DenseRecord(PartsRecord(*sides, np.zeros(1, np.int64))),
        DenseRecord(rest=quantise_rest(numbers((1, 2)), 0, np.array([4]))),
    ):
        with raises(BundleFormatError, got="what is shared of a tensor is not whole"):
            shared(odd)
