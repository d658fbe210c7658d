"""Likeness and energy against dense matrices, and where there is nothing to compare."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.codec import Array, CoreStore, Factors
from hydraopt.inspect import ModuleComparison, module_type
from hydraopt.inspect.adapters import _mean_cumulated, _rank_for
from hydraopt.inspect.likeness import Likeness, Watched, blocks, by_type, likeness, mean_between

M, N = 9, 7

Pair = tuple[Array, Array]


def _pairs(ranks: tuple[int, ...] = (2, 3, 2)) -> list[Pair]:
    rng = np.random.default_rng(4)
    return [(rng.standard_normal((M, r)), rng.standard_normal((r, N))) for r in ranks]


def _look(pairs: list[Pair], block: int = 1024) -> tuple[Watched, Likeness]:
    watched = Watched(lambda: ((i, Factors(b, a)) for i, (b, a) in enumerate(pairs)))
    return watched, likeness(CoreStore([watched]).core(0), block)


def _cosine(x: Array, y: Array) -> float:
    return float(np.sum(x * y) / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("block", [1, 4, 1024])
def test_products_are_the_dense_ones(block: int) -> None:
    pairs = _pairs()
    _, found = _look(pairs, block)
    dense = [b @ a for b, a in pairs]
    for i, x in enumerate(dense):
        for j, y in enumerate(dense):
            assert found.inner[i, j] == pytest.approx(np.sum(x * y), rel=1e-5, abs=1e-5)
            assert found.products[i, j] == pytest.approx(_cosine(x, y), abs=1e-6)


@pytest.mark.parametrize("block", [1, 4, 1024])
def test_overlap_of_spaces_is_the_mean_squared_cosine_of_their_angles(
    block: int,
) -> None:
    pairs = _pairs()
    _, found = _look(pairs, block)
    for i, (bi, ai) in enumerate(pairs):
        for j, (bj, aj) in enumerate(pairs):
            for given, expected in (((ai.T, aj.T), found.inputs), ((bi, bj), found.outputs)):
                q, p = (np.linalg.qr(x)[0] for x in given)
                cosines = np.linalg.svd(q.T @ p, compute_uv=False)
                assert expected[i, j] == pytest.approx(np.mean(cosines**2), abs=1e-6)


def test_factors_as_given_depend_on_the_factoring_and_the_rest_does_not() -> None:
    pairs = _pairs((3, 3))
    turn = np.random.default_rng(1).standard_normal((3, 3))
    (b, a), other = pairs
    turned = [(b @ np.linalg.inv(turn), turn @ a), other]
    watched, found = _look(pairs)
    watched_turned, found_turned = _look(turned)
    assert watched.a[0, 1] == pytest.approx(_cosine(a, other[1]))
    assert watched.b[0, 1] == pytest.approx(_cosine(b, other[0]))
    assert abs(watched.a[0, 1] - watched_turned.a[0, 1]) > 0.01
    assert found.products == pytest.approx(found_turned.products, abs=1e-6)
    assert found.inputs == pytest.approx(found_turned.inputs, abs=1e-6)


def test_what_is_not_defined_is_left_out() -> None:
    pairs = _pairs((2, 3, 2))
    pairs.append((np.zeros((M, 2)), np.ones((2, N))))
    watched, found = _look(pairs)
    assert np.isnan(watched.a[0, 1])  # ranks differ
    assert np.isfinite(watched.a[0, 2])
    assert np.isnan(watched.b[0, 3])  # a factor of zeros
    assert np.isnan(found.products[0, 3])
    assert np.isnan(found.inputs[0, 3])
    assert mean_between(watched.b) == pytest.approx(watched.b[0, 2])
    assert mean_between(np.full((2, 2), np.nan)) is None
    assert mean_between(np.ones((1, 1))) is None


def test_parts_for_a_share_of_the_energy() -> None:
    energy = np.array([90.0, 9.0, 1.0])
    assert [_rank_for(x, energy) for x in (0.5, 0.9, 0.95, 0.99, 1.0)] == [1, 1, 2, 2, 3]
    assert _rank_for(0.9, np.zeros(0)) == 0
    assert _mean_cumulated([energy, np.array([5.0]), np.zeros(0)]) == (0.95, 0.995, 1.0)
    assert _mean_cumulated([]) == ()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("model.layers.12.mlp.up_proj", "model.layers.*.mlp.up_proj"),
        ("h.3.attn.c_attn::2", "h.*.attn.c_attn::*"),
        ("lora_unet_down_blocks_0_attn1_to_q", "lora_unet_down_blocks_*_attn1_to_q"),
        ("layer.0", "layer.*"),
        ("conv2d", "conv2d"),
    ],
)
def test_types_have_stars_for_numbers(path: str, kind: str) -> None:
    assert module_type(path) == kind


def _row(path: str, m: int = 4, cosine: float | None = 0.5) -> ModuleComparison:
    return ModuleComparison(
        path=path,
        type=module_type(path),
        kind="linear",
        m=m,
        n=5,
        tasks=("de", "en"),
        a_cosine=cosine,
        b_cosine=cosine,
        product_cosine=cosine,
        input_overlap=cosine,
        input_chance=0.1,
        output_overlap=cosine,
        output_chance=0.1,
        norm=1.0,
        ranks=(2, 4),
        rank90=(1, 2),
        rank99=(2, 4),
        spectrum=(),
    )


def test_types_add_up() -> None:
    rows = [_row("h.0.q"), _row("h.1.q", cosine=None), _row("h.2.q", m=8)]
    small, large = by_type(rows)
    assert (small.type, small.modules, large.modules) == ("h.*.q", 2, 1)
    assert small.a_cosine == 0.5
    assert (small.rank, small.rank90) == (3.0, 1.5)


def test_blocks_hold_whole_tasks_up_to_their_size() -> None:
    ranks = np.array([0, 3, 2, 0, 9, 1, 4, 0])
    assert list(blocks(ranks, 5)) == [(0, 4), (4, 5), (5, 8)]
