"""Small cores: what is common to many tasks, found in part or whole, kept or computed again."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hydraopt.codec import (
    ROOM,
    Array,
    CoreStore,
    Factors,
    ModuleCore,
    core as core_module,
    core as spectrum,
)
from hydraopt.codec.core import SharedSpace
from tests.compress.core_factors import Pair, low_rank, orthonormal

TASKS, RANK, M, N = 24, 4, 40, 120
PLENTY = 1 << 30


def alike(seed: int) -> list[Pair]:
    """Tasks whose inputs lie near twelve common directions, and whose outputs lie anywhere."""
    rng = np.random.default_rng(seed)
    common = orthonormal(rng, N, 12)
    pairs = [low_rank(rng, M, N, RANK, right=common) for _ in range(TASKS)]
    return [(b, a + 0.02 * rng.standard_normal(a.shape)) for b, a in pairs]


class Reads:
    """A reader of one module that counts how often it is read."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs, self.count = pairs, 0

    def __call__(self) -> Iterator[tuple[int, Factors]]:
        self.count += 1
        for i, (b, a) in enumerate(self.pairs):
            yield i, Factors(b, a)


def weights_of(core: ModuleCore) -> list[float]:
    return [1 / float(s @ s) for s in core.s]


def spaces_of(seed: int) -> tuple[ModuleCore, tuple[SharedSpace, SharedSpace]]:
    core = CoreStore([Reads(alike(seed))]).core(0)
    return core, core.spaces(weights_of(core))


@pytest.fixture
def partial(monkeypatch: pytest.MonkeyPatch) -> int:
    """Only the strongest directions are computed, as for many tasks; how many of them."""
    monkeypatch.setattr(core_module, "MOST_EXACT", 8)
    monkeypatch.setattr(spectrum, "MOST_DIRECTIONS", 20)
    monkeypatch.setattr(spectrum, "SPARE", 4)
    return 20


@pytest.mark.parametrize("side", [0, 1], ids=["left", "right"])
def test_the_strongest_directions_are_found_without_the_others(
    side: int, request: pytest.FixtureRequest
) -> None:
    core, exact = spaces_of(1)
    most = request.getfixturevalue("partial")
    _, some = spaces_of(1)
    found = some[side]
    assert found.values.size == most
    assert np.sum(found.values**2) > 0.985 * np.sum(exact[side].values[:most] ** 2)
    assert found.values[-1] < 0.999 * exact[side].values[most - 1], "computed in part"
    assert np.all(found.values[:most] <= exact[side].values[:most] * (1 + 1e-5))
    directions = core.directions(found, ("left", "right")[side], most)
    gram = directions.T @ directions
    np.testing.assert_allclose(gram, np.eye(most), atol=1e-5)
    stacked = (core.U, core.V)[side].astype(np.float64)
    coordinates = found.within(core, ("left", "right")[side], most)
    np.testing.assert_allclose(coordinates, stacked.T @ directions, atol=1e-5)


def test_directions_that_stand_out_are_exact_to_single_precision(partial: int) -> None:
    found = spaces_of(1)[1][1]
    core, (_, exact) = spaces_of(1)
    del partial
    np.testing.assert_allclose(found.values[:12], exact.values[:12], rtol=1e-4)
    assert core.spaces(weights_of(core))[1].values.size <= 20


def test_more_vectors_than_they_are_long_are_all_used(monkeypatch: pytest.MonkeyPatch) -> None:
    core, (exact, _) = spaces_of(1)
    monkeypatch.setattr(core_module, "MOST_EXACT", M)
    called: list[tuple[int, ...]] = []
    by_scatter = core_module.by_scatter

    def noted(stacked: Array, d: Array) -> tuple[Array, Array]:
        called.append(stacked.shape)
        return by_scatter(stacked, d)

    monkeypatch.setattr(core_module, "by_scatter", noted)
    found = spaces_of(1)[1][0]
    assert called == [(M, TASKS * RANK)]
    np.testing.assert_allclose(found.values, exact.values, rtol=1e-10)
    directions = core.directions(found, "left", M)
    np.testing.assert_allclose(directions.T @ directions, np.eye(M), atol=1e-5)
    wanted = core.U.T.astype(np.float64) @ directions
    np.testing.assert_allclose(found.within(core, "left", M), wanted, atol=1e-5)


def test_all_directions_within_the_limit_are_those_of_the_whole_decomposition() -> None:
    core, spaces = spaces_of(3)
    scaled = core.V.astype(np.float64) * np.concatenate(
        [s * np.sqrt(w) for s, w in zip(core.s, weights_of(core), strict=True)]
    )
    wanted = np.linalg.svd(scaled, compute_uv=False)
    got = spaces[1].values
    np.testing.assert_allclose(got, wanted[: got.size], rtol=1e-6, atol=1e-6 * wanted[0])


@pytest.mark.parametrize(("room", "vectors", "reads"), [(PLENTY, PLENTY, 1), (PLENTY, 0, 2)])
def test_what_is_kept_is_not_computed_again(room: int, vectors: int, reads: int) -> None:
    reader = Reads(alike(4))
    store = CoreStore([reader], room, vectors)
    weights = weights_of(store.core(0))
    first = store.core(0).spaces(weights)
    for _ in range(3):
        assert store.core(0).spaces(weights) is first
    assert reader.count == reads


def test_what_there_is_no_room_for_goes_and_comes_back_the_same() -> None:
    reader = Reads(alike(5))
    store, ample = CoreStore([reader], 0, 0), CoreStore([Reads(alike(5))])
    weights = weights_of(store.core(0))
    first, again = store.core(0).spaces(weights), store.core(0).spaces(weights)
    kept = ample.core(0).spaces(weights)
    assert again is not first
    assert reader.count == 3
    for a, b, c in zip(first, again, kept, strict=True):
        assert np.array_equal(a.mix, b.mix)
        assert np.array_equal(a.mix, c.mix)
    assert np.array_equal(store.core(0).thin(7).V, ample.core(0).thin(7).V)


def test_vectors_without_room_go_with_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[Array]] = []
    decomposed = core_module.decomposed

    def noted(pairs: Any) -> Any:
        whole = decomposed(pairs)
        seen.extend(map(weakref.ref, whole[2]))
        return whole

    monkeypatch.setattr(core_module, "decomposed", noted)
    store = CoreStore([Reads(alike(9))], PLENTY, 0)
    for _ in range(2):
        core = store.core(0)
        assert core.thin(0).V.shape == (N, RANK)
        assert any(x() is not None for x in seen)
        del core
        gc.collect(1)  # what is young: the heap of all tests takes a second
        assert all(x() is None for x in seen)


def test_the_last_spaces_are_kept_and_counted() -> None:
    core = CoreStore([Reads(alike(9))]).core(0)
    assert core.families
    for weights in (weights_of(core), [1.0] * TASKS):
        every = [core.spaces(weights), *(core.spaces(weights, family=x) for x in core.families)]
    kept = core._spaces
    assert [id(x) for x in kept.held.values()] == [id(x) for x in every]
    assert kept.room.left == ROOM - sum(x.nbytes for y in every for x in y)


@pytest.mark.parametrize("factor", [1e-60, 1e60])
def test_any_weights_will_do(factor: float, partial: int) -> None:
    core, spaces = spaces_of(10)
    for side, space in enumerate(core.spaces([w * factor for w in weights_of(core)])):
        assert space.values.size == partial
        np.testing.assert_allclose(space.values, spaces[side].values * factor**0.5, rtol=1e-5)


def test_noise_of_single_precision_is_no_direction() -> None:
    rng = np.random.default_rng(11)
    common = orthonormal(rng, N, 12)
    pairs = [low_rank(rng, M, N, RANK, right=common) for _ in range(TASKS)]
    core = CoreStore([Reads(pairs)]).core(0)
    values = core.spaces(weights_of(core))[1].values
    assert values[11] > 1e-2 * values[0]
    assert np.all(values[12:] < 1e-6 * values[0])


def test_room_is_given_once() -> None:
    readers = [Reads(alike(seed)) for seed in (6, 7)]
    one = CoreStore(readers).core(0)
    room = sum(x.nbytes for x in one.spaces(weights_of(one)))
    store = CoreStore(readers, room, one.U.nbytes + one.V.nbytes)
    before = [reader.count for reader in readers]
    for index in (0, 1):
        weights = weights_of(store.core(index))
        store.core(index).spaces(weights)
        store.core(index).spaces(weights)
    assert [reader.count - b for reader, b in zip(readers, before, strict=True)] == [1, 3]


def strangers(seed: int, tasks: int = 40) -> list[Pair]:
    """Tasks that have nothing in common."""
    rng = np.random.default_rng(seed)
    return [low_rank(rng, 300, 400, 8) for _ in range(tasks)]


def test_no_directions_where_tasks_share_no_more_than_chance() -> None:
    core = CoreStore([Reads(strangers(12))]).core(0)
    assert [x.values.size for x in core.spaces(weights_of(core), needed=False)] == [0, 0]
    assert [x.values.size for x in core.spaces(weights_of(core))] == [300, 320]


def test_one_pair_of_copies_is_more_than_chance() -> None:
    pairs = strangers(13)
    pairs[1] = pairs[0]
    core = CoreStore([Reads(pairs)]).core(0)
    assert all(x.values.size > 300 - 10 for x in core.spaces(weights_of(core), needed=False))
