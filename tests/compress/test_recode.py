"""Other factors in the place of a record's."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.codec import (
    Basis,
    CodedModule,
    Drawn,
    Factors,
    KnownStart,
    Mode,
    PartsRecord,
    Way,
    recode,
    write_record,
)
from hydraopt.codec.sides import MODES, quantise_side, quantise_started
from hydraopt.codec.stream import StreamWriter
from hydraopt.codec.tables import exponents

M, N, K, Q = 96, 128, 4, 24
DRAWN = Drawn(KnownStart(42, 1000), 100, 6)


def coded_of(mode: Mode, spread: float = 8.0, seed: int = 0) -> CodedModule:
    """A record of K parts with numbers of that spread, over bases of Q vectors a side."""
    rng = np.random.default_rng(seed)
    left, right = (Basis(np.linalg.qr(rng.standard_normal((x, Q)))[0]) for x in (M, N))
    sides = []
    for way, basis, length in ((mode.left, left, M), (mode.right, right, N)):
        x = spread * rng.standard_normal((length, K))
        if way is Way.SHARED:
            x = spread * basis.vectors @ rng.standard_normal((Q, K))
        if way is Way.STARTED:
            lengths = np.full(K, spread * np.sqrt(N))
            sides.append(quantise_started(x, DRAWN, np.ones(K), lengths))
        else:
            sides.append(quantise_side(x, way, basis))
    steps = exponents(np.array([0.5, 0.2, 0.1, 0.05]) / spread**2)
    return CodedModule(PartsRecord(*sides, steps), left, right, DRAWN.start)


def inside(x: np.ndarray, way: Way, basis: Basis | None) -> np.ndarray:
    return x if way is not Way.SHARED else basis.orthonormal @ (basis.orthonormal.T @ x)


def factors_of(coded: CodedModule, seed: int) -> Factors:
    """Other factors, of shared sides inside the bases."""
    rng = np.random.default_rng(seed)
    b = inside(rng.standard_normal((M, K)), coded.record.mode.left, coded.left)
    a = inside(rng.standard_normal((N, K)), coded.record.mode.right, coded.right)
    return Factors(b * [3.0, 2.0, 1.0, 0.5], a.T)


def size_of(record: PartsRecord) -> int:
    writer = StreamWriter()
    write_record(writer, record, True)
    return len(writer.finish())


@pytest.mark.parametrize("mode", MODES)
def test_what_is_coded_is_near_and_takes_as_many_bytes(mode: Mode) -> None:
    coded = coded_of(mode)
    wanted = factors_of(coded, 1)
    made = recode(wanted, coded)
    record = made.record
    assert (record.mode, record.count) == (mode, K)
    seen, want = (x.B @ x.A for x in (record.factors, wanted))
    assert np.linalg.norm(seen - want) < 0.2 * np.linalg.norm(want)
    assert size_of(record) == pytest.approx(size_of(coded.record), rel=0.04)


@pytest.mark.parametrize("mode", MODES)
def test_the_sides_are_told_as_long_as_they_were_and_multiply_to_the_record(mode: Mode) -> None:
    coded = coded_of(mode)
    wanted = factors_of(coded, 2)
    made = recode(wanted, coded)
    coded_product = made.record.factors.B @ made.record.factors.A
    np.testing.assert_allclose(made.factors.B @ made.factors.A, coded_product, rtol=1e-9, atol=1e-9)
    for got, want in ((made.factors.B.T, wanted.B.T), (made.factors.A, wanted.A)):
        along = np.sum(got * want, 1) / np.sum(want * want, 1)
        assert along == pytest.approx(1.0, abs=0.03)  # half a step of the grid, and rounding


def test_rounding_takes_nothing_from_the_effect_of_rough_parts() -> None:
    coded = coded_of(MODES[0], spread=0.8)
    rng = np.random.default_rng(3)
    wanted = Factors(rng.standard_normal((M, K)), rng.standard_normal((K, N)))
    seen = recode(wanted, coded).record.factors
    for j in range(K):
        effect = (wanted.B[:, j] @ seen.B[:, j]) * (wanted.A[j] @ seen.A[j])
        whole = (wanted.B[:, j] @ wanted.B[:, j]) * (wanted.A[j] @ wanted.A[j])
        assert effect == pytest.approx(whole, rel=0.02)


def test_it_does_not_depend_on_how_parts_are_balanced() -> None:
    coded = coded_of(MODES[0])
    wanted = factors_of(coded, 4)
    lengths = np.array([2.0, 4.0, 0.5, 8.0])
    other = Factors(wanted.B * lengths, wanted.A / lengths[:, None])
    first, second = (recode(x, coded).record for x in (wanted, other))
    assert np.array_equal(first.exponents, second.exponents)
    assert np.array_equal(first.left.values, second.left.values)


def test_parts_of_nothing_are_coded_as_nothing() -> None:
    coded = coded_of(MODES[0])
    made = recode(Factors(np.zeros((M, K)), np.zeros((K, N))), coded)
    assert not (made.record.factors.B @ made.record.factors.A).any()
    assert np.isfinite(made.factors.B).all()
