"""Tasks encoded side by side: errors are those of what is written, and nobody sees the others."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hydraopt.codec import Array, Bases, Drawn, KnownStart, Mode, PartsRecord, Way
from hydraopt.codec.encoder import Alike, Begun, encode_alike
from hydraopt.codec.matrices import thin_stack
from hydraopt.codec.sides import MODES, quantise_basis

T, R, K, M, N = 3, 4, 3, 48, 60
SPLIT = ("u", "s", "v", "left", "right", "begun")


def tasks(mode: Mode, unbiased: float = 300.0, spread: int = 26) -> tuple[Alike, Bases]:
    """Three tasks near common spaces of eight directions, which are the bases."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((x, 8)))[0] for x in (M, N))
    b = rng.standard_normal((T, R, 8)) @ left.T + 0.01 * rng.standard_normal((T, R, M))
    a = rng.standard_normal((T, R, 8)) @ right.T + 0.01 * rng.standard_normal((T, R, N))
    u, s, v = (np.stack(x).astype(np.float64) for x in thin_stack(b, a))
    classes = np.full((T, K), spread)
    bases = tuple(quantise_basis(x * 500).basis for x in (left, right))
    begun = [Begun(Drawn(KnownStart(i, N * R), 0, R), np.full(R, spread)) for i in range(T)]
    begun = begun if mode.right is Way.STARTED else []
    return Alike(mode, u, s, v, classes, classes, unbiased, begun), (bases[0], bases[1])


def dense(record: PartsRecord) -> Array:
    return record.factors.B @ record.factors.A


@pytest.mark.parametrize("mode", MODES)
def test_the_error_is_that_of_what_is_written(mode: Mode) -> None:
    alike, bases = tasks(mode)
    for i, done in enumerate(encode_alike(alike, *bases)):
        assert done is not None
        record, error = done
        assert (record.mode, record.count) == (alike.mode, K)
        true = (alike.u[i].T * alike.s[i]) @ alike.v[i]
        assert error == pytest.approx(float(np.sum((true - dense(record)) ** 2)), rel=1e-4)
        # What the parts that are left out would have explained, and a little.
        assert error < 1.1 * alike.s[i, K] ** 2 + 0.03 * float(alike.s[i] @ alike.s[i])


@pytest.mark.parametrize("mode", MODES)
def test_a_task_is_written_as_if_it_were_alone(mode: Mode) -> None:
    alike, bases = tasks(mode)
    together = encode_alike(alike, *bases)
    for i in range(T):
        mine = {name: getattr(alike, name)[i : i + 1] for name in SPLIT}
        (alone,) = encode_alike(dataclasses.replace(alike, **mine), *bases)
        both = together[i]
        assert both is not None
        assert alone is not None
        assert both[1] == alone[1]
        assert np.array_equal(dense(both[0]), dense(alone[0]))


def test_parts_that_round_to_nothing_are_left_out() -> None:
    alike, bases = tasks(Mode(Way.EXPLICIT, Way.EXPLICIT))
    right = alike.right.copy()
    right[0, 1], right[1] = 0, 0
    first, second, third = encode_alike(dataclasses.replace(alike, right=right), *bases)
    assert first is not None
    assert third is not None
    assert (first[0].count, second, third[0].count) == (K - 1, None, K)


def test_the_left_side_is_fitted_in_the_inner_product() -> None:
    # Rounded finely, the fit is the least-squares one of the metric, over the rounded right side.
    alike, bases = tasks(Mode(Way.EXPLICIT, Way.EXPLICIT), unbiased=30.0, spread=80)
    right = np.full((T, K), 20)
    for i, done in enumerate(encode_alike(dataclasses.replace(alike, right=right), *bases)):
        assert done is not None
        metric = np.eye(N) + 29 * alike.v[i].T @ alike.v[i]
        true = (alike.u[i].T * alike.s[i]) @ alike.v[i]
        a = done[0].factors.A
        wanted = true @ metric @ a.T @ np.linalg.inv(a @ metric @ a.T)
        np.testing.assert_allclose(done[0].factors.B, wanted, atol=1e-3 * np.abs(wanted).max())


def test_a_shared_side_needs_a_basis() -> None:
    alike, (left, _) = tasks(Mode(Way.EXPLICIT, Way.SHARED))
    with pytest.raises(ValueError, match="basis"):
        encode_alike(alike, left, None)
