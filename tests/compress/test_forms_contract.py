"""What every form keeps, under every measure. A new form or measure inherits these tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from hydraopt.codec import (
    FORMS,
    MOST_DRAWN,
    Drawn,
    EncodedModule,
    Factors,
    KnownStart,
    Measure,
    Mode,
    PartsRecord,
    StreamReader,
    Way,
    read_basis,
    read_split_record,
    write_basis,
    write_record,
)
from hydraopt.codec.costs import MEASURES
from hydraopt.codec.sides import MODES, quantise_basis, quantise_side, quantise_started
from hydraopt.codec.stream import StreamWriter
from hydraopt.codec.tables import Kind
from hydraopt.errors import BundleFormatError
from tests.compress.core_factors import (
    Pair,
    dense,
    encoded,
    low_rank,
    orthonormal,
    relative_error,
)
from tests.raising import raises

M, N, R = 40, 56, 6
DRAWN = Drawn(KnownStart(0, MOST_DRAWN), 1000, 4)
PRICES = [1e-2, 1e-3, 1e-4, 1e-5, 1e-7, 1e-9]


def related(seed: int = 0, tasks: int = 4, m: int = M, n: int = N) -> list[Pair]:
    """Tasks that have most of their inputs and outputs in common, and something of their own."""
    rng = np.random.default_rng(seed)
    left, right = orthonormal(rng, m, 8), orthonormal(rng, n, 8)
    pairs = []
    for _ in range(tasks):
        b, a = low_rank(rng, m, n, R, left=left, right=right)
        b2, a2 = low_rank(rng, m, n, 2)
        pairs.append((np.hstack([b, 0.2 * b2]), np.vstack([a, a2])))
    return pairs


def bytes_of(module: EncodedModule, tasks: int, form: str) -> tuple[bytes, list[bytes]]:
    """A bundle's streams, for one module that was encoded in this form."""
    shared = StreamWriter()
    write_basis(shared, module.left)
    write_basis(shared, module.right)
    here = module.has_bases or form == "started"
    streams = []
    for i in range(tasks):
        writer = StreamWriter()
        write_record(writer, module.records[i], here)
        streams.append(writer.finish())
    return shared.finish(), streams


def read_back(
    shared: bytes, streams: Sequence[bytes], m: int, n: int, form: str = ""
) -> list[tuple[Factors, Mode]]:
    reader = StreamReader(shared)
    left, right = read_basis(reader, m, m), read_basis(reader, n, n)
    assert reader.position == len(shared)
    found = []
    for i, stream in enumerate(streams):
        task = StreamReader(stream)
        start = KnownStart(i, MOST_DRAWN) if form == "started" else None
        widths = (0 if basis is None else basis.q for basis in (left, right))
        record = read_split_record(task, m, n, *widths, start)
        found.append((record.factors(left, right), record.mode))
        assert task.position == len(stream)
    return found


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=list(MEASURES))
def measure(request: pytest.FixtureRequest) -> Measure:
    return MEASURES[request.param]


@pytest.mark.parametrize("price", [1e-3, 1e-6])
def test_a_reader_sees_what_the_encoder_saw(form: str, measure: Measure, price: float) -> None:
    pairs = related()
    module = encoded(pairs, price, [form], measure)
    found = read_back(*bytes_of(module, len(pairs), form), M, N, form)
    assert any(record is not None for record in module.records)
    for record, (factors, mode) in zip(module.records, found, strict=True):
        if record is None:
            assert factors.A.shape == (0, N)
            assert factors.B.shape == (M, 0)
            continue
        assert mode == record.mode
        assert mode in FORMS[form]
        assert np.array_equal(factors.B, record.factors.B)
        assert np.array_equal(factors.A, record.factors.A)


@pytest.mark.parametrize("price", [1e-3, 1e-6, 1e-12])
def test_the_recorded_error_is_the_real_one(form: str, measure: Measure, price: float) -> None:
    pairs = related(1)
    module = encoded(pairs, price, [form], measure)
    for pair, record, error, energy in zip(
        pairs, module.records, module.errors, module.energies, strict=True
    ):
        wanted = dense(pair)
        got = np.zeros_like(wanted) if record is None else dense(record.factors)
        assert energy == pytest.approx(float(np.sum(wanted**2)), rel=1e-6)
        direct = float(np.linalg.norm(got - wanted)) / np.sqrt(energy)
        assert np.sqrt(error / energy) == pytest.approx(direct, rel=1e-3, abs=1e-6)


def test_at_a_low_price_the_error_vanishes(form: str, measure: Measure) -> None:
    pairs = related(2)
    module = encoded(pairs, 1e-12, [form], measure)
    for pair, record in zip(pairs, module.records, strict=True):
        assert record is not None
        assert relative_error(record.factors, pair) < 1e-3


def test_error_falls_and_bytes_rise_with_the_price(form: str) -> None:
    pairs = related(3)
    errors, sizes = [], []
    for price in PRICES:
        module = encoded(pairs, price, [form])
        shared, streams = bytes_of(module, len(pairs), form)
        errors.append(float(np.sqrt(sum(module.errors) / sum(module.energies))))
        sizes.append(len(shared) + sum(map(len, streams)))
    assert all(a >= 0.98 * b for a, b in pairwise(errors)), errors
    assert all(a <= 1.02 * b for a, b in pairwise(sizes)), sizes
    assert errors[-1] < 0.01 < errors[0]


def test_the_gauge_does_not_matter(form: str, measure: Measure) -> None:
    pairs = related(4)
    rng = np.random.default_rng(4)
    turned = []
    for b, a in pairs:
        R = rng.standard_normal((a.shape[0], a.shape[0]))
        turned.append((b @ R, np.linalg.solve(R, a)))
    one, two = (encoded(x, 1e-4, [form], measure) for x in (pairs, turned))
    for a, b, pair, error in zip(one.records, two.records, pairs, one.errors, strict=True):
        assert a is not None
        assert b is not None
        # Rounding near a border may go the other way; that is far below the error itself.
        change = np.linalg.norm(dense(a.factors) - dense(b.factors))
        assert change <= 0.1 * np.sqrt(error), np.linalg.norm(dense(pair))


@pytest.mark.parametrize("shift", [-60, -3, 1, 60])
def test_a_power_of_two_goes_through_exactly(form: str, measure: Measure, shift: int) -> None:
    pairs = related(5)
    scaled = [(np.ldexp(b, shift), a) for b, a in pairs]
    one, two = (encoded(x, 1e-4, [form], measure) for x in (pairs, scaled))
    for a, b in zip(one.records, two.records, strict=True):
        assert a is not None
        assert b is not None
        assert np.array_equal(np.ldexp(dense(a.factors), shift), dense(b.factors))


@pytest.mark.parametrize("scale", [1e-12, 0.3, 7e9])
def test_any_other_scale_goes_through_nearly(form: str, measure: Measure, scale: float) -> None:
    pairs = related(6)
    one = encoded(pairs, 1e-4, [form], measure)
    two = encoded([(scale * b, a) for b, a in pairs], 1e-4, [form], measure)
    # Coefficients fall on other points of the grid of 2.2 %, and what is rounded after them too.
    before, after = np.sqrt(one.errors), np.sqrt(two.errors) / scale
    assert after == pytest.approx(before, rel=0.15)
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before), rel=0.05)


@pytest.mark.parametrize(
    ("m", "n", "r"), [(1, 30, 1), (30, 1, 1), (3, 4, 9), (1, 1, 1), (20, 5, 5)]
)
def test_small_and_odd_shapes(form: str, measure: Measure, m: int, n: int, r: int) -> None:
    rng = np.random.default_rng(7)
    pairs = [(rng.standard_normal((m, r)), rng.standard_normal((r, n))) for _ in range(3)]
    module = encoded(pairs, 1e-9, [form], measure)
    found = read_back(*bytes_of(module, 3, form), m, n, form)
    for (factors, _), pair in zip(found, pairs, strict=True):
        assert relative_error(factors, pair) < 0.05


def test_a_zero_task_among_others_costs_next_to_nothing(form: str, measure: Measure) -> None:
    pairs = [*related(8), (np.zeros((M, 2)), np.ones((2, N)))]
    module = encoded(pairs, 1e-5, [form], measure)
    assert module.records[-1] is None
    assert module.errors[-1] == module.energies[-1] == 0
    assert len(bytes_of(module, len(pairs), form)[1][-1]) <= 10
    assert all(record is not None for record in module.records[:-1])


def test_nothing_but_zeros(form: str, measure: Measure) -> None:
    module = encoded([(np.zeros((M, 2)), np.ones((2, N)))] * 2, 1e-5, [form], measure)
    assert module.records == (None, None)
    assert module.left is None
    assert module.right is None


# --- records that the encoder would not write ---------------------------------------------------


def record_of(mode: Mode, seed: int = 0) -> tuple[PartsRecord, list[bytes]]:
    rng = np.random.default_rng(seed)
    bases = [quantise_basis(rng.standard_normal((size, 4)) * 20) for size in (M, N)]
    sides = []
    for size, way, basis in zip((M, N), (mode.left, mode.right), bases, strict=True):
        x = rng.standard_normal((size, 3)) * 30
        if way is Way.STARTED:
            sides.append(quantise_started(x, DRAWN, np.ones(3), np.full(2, 40.0)))
        else:
            sides.append(quantise_side(x, way, basis.basis))
    record = PartsRecord(sides[0], sides[1], np.array([-6400, 6400, -5]))
    shared, task = StreamWriter(), StreamWriter()
    for basis in bases:
        write_basis(shared, basis)
    write_record(task, record, True)
    return record, [shared.finish(), task.finish()]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_and_the_largest_exponents(mode: Mode) -> None:
    record, (shared, task) = record_of(mode)
    [(factors, found)] = read_back(shared, [task], M, N, "started")
    assert found == mode
    assert np.array_equal(factors.B, record.factors.B)
    assert np.array_equal(factors.A, record.factors.A)


@pytest.mark.parametrize(
    "mode",
    [Mode(Way.SHARED, Way.SHARED), Mode(Way.EXPLICIT, Way.PREDICTED), MODES[-1]],
)
def test_a_mode_without_its_basis_is_refused(mode: Mode) -> None:
    _, (shared, task) = record_of(mode)
    reader = StreamReader(shared)
    left = read_basis(reader, M, M)
    assert left is not None
    with pytest.raises(BundleFormatError):
        read_split_record(StreamReader(task), M, N, left.q, 0)


@pytest.mark.parametrize(
    ("count", "facts"),
    [
        (-1, {"got": "the number of parts is -1, expected 0 to 81"}),
        (2 * M + 2, {"got": "the number of parts is 82, expected 0 to 81"}),
    ],
)
def test_counts_that_cannot_be_are_refused(count: int, facts: dict[str, object]) -> None:
    writer = StreamWriter()
    writer.integer(Kind.COUNT, count)
    with raises(BundleFormatError, **facts):
        read_split_record(StreamReader(writer.finish()), M, N, 0, 0)


def test_too_many_basis_vectors_are_refused() -> None:
    writer = StreamWriter()
    write_basis(writer, quantise_basis(np.eye(6) * 9))
    with raises(BundleFormatError, got="the number of basis vectors is 6, expected 0 to 5"):
        read_basis(StreamReader(writer.finish()), 6, 5)
