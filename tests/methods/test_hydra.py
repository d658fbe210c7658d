"""HydraOpt's objective: exact steps against dense truths."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from hydraopt.codec import Factors
from hydraopt.errors import AlignmentError, UsageError
from hydraopt.merging.hydra import HydraFit, fit_exact
from tests.methods.method_cases import apart, clustered, dense, made, refactored, unrelated


def objective(fit: HydraFit, factors: Sequence[Factors], w: Sequence[float] | None = None) -> float:
    """From dense matrices."""
    w = w or [1.0] * len(factors)
    left = total = 0.0
    for t, f in enumerate(factors):
        own = fit.scales[t] * fit.heads[fit.assignment[t]] @ fit.A
        left += w[t] * float(np.sum((dense(f) - own) ** 2))
        total += w[t] * float(np.sum(dense(f) ** 2))
    return left / total


@settings(max_examples=30)
@given(st.integers(0, 50), st.integers(1, 6), st.integers(1, 9), st.booleans())
def test_the_objective_never_rises_and_is_true(seed: int, m: int, rank: int, scales: bool) -> None:
    factors = clustered(seed, own=1.0)
    w = np.random.default_rng(seed).uniform(0.2, 3.0, len(factors)).tolist()
    fit = fit_exact(factors, m, rank, w, starts=2, seed=seed, scales=scales)
    assert np.all(np.diff(fit.history) <= 1e-12)
    assert fit.objective == pytest.approx(objective(fit, factors, w), abs=1e-12)
    assert np.allclose(fit.A @ fit.A.T, np.eye(len(fit.A)), atol=1e-10)
    assert sorted(set(fit.assignment.tolist())) == list(range(m))
    assert fit.assignment[0] == 0
    assert scales or np.array_equal(fit.scales, np.ones(len(factors)))


def test_a_head_for_each_task_is_the_closed_form() -> None:
    factors = clustered(3, own=1.0)
    w = np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0])
    fit = fit_exact(factors, len(factors), 5, w.tolist())
    gram = sum(x * dense(f).T @ dense(f) for x, f in zip(w, factors, strict=True))
    values, vectors = np.linalg.eigh(gram)
    assert len(fit.history) == 1
    assert fit.objective == pytest.approx(1 - values[-5:].sum() / values.sum(), abs=1e-12)
    space = vectors[:, -5:]
    assert apart(fit.A.T @ fit.A, space @ space.T) < 1e-10
    for t, f in enumerate(factors):
        assert apart(fit.heads[t] @ fit.A, dense(f) @ space @ space.T) < 1e-10
    assert np.array_equal(fit.scales, np.ones(6))


def test_one_head_without_scales_is_the_truncated_mean() -> None:
    factors = unrelated(5, 4)
    w = np.array([1.0, 2.0, 3.0, 4.0])
    fit = fit_exact(factors, 1, 2, w.tolist(), scales=False)
    mean = np.tensordot(w / w.sum(), np.stack([dense(f) for f in factors]), 1)
    u, s, vt = np.linalg.svd(mean)
    assert apart(fit.heads[0] @ fit.A, (u[:, :2] * s[:2]) @ vt[:2]) < 1e-10


def test_scales_are_the_best_for_their_heads() -> None:
    factors = clustered(6, own=0.8)
    w = [1.0, 2.0, 1.0, 1.0, 0.5, 1.0]
    fit = fit_exact(factors, 2, 4, w)
    for t, f in enumerate(factors):
        head = fit.heads[fit.assignment[t]] @ fit.A
        best = float(np.sum(dense(f) * head) / np.sum(head**2))
        assert fit.scales[t] == pytest.approx(best, abs=1e-4)
    for c in range(2):
        own = fit.assignment == c
        share = np.array(w)[own]
        assert float(share @ fit.scales[own] ** 2 / share.sum()) == pytest.approx(1.0)
    plain = fit_exact(factors, 2, 4, w, scales=False)
    assert fit.objective < plain.objective


@pytest.mark.parametrize("heads", [2, 3])
def test_starts_find_the_best_of_all_choices_of_few_tasks(heads: int) -> None:
    # Without scales a choice of heads leaves an eigenvalue problem, so all choices can be tried.
    factors = clustered(7, (0, 1, 0, 1, 2), own=1.2)
    deltas = [dense(f) for f in factors]
    total = sum(float(np.sum(d**2)) for d in deltas)
    least = 1.0
    for labels in itertools.product(range(heads), repeat=len(deltas)):
        gram = np.zeros((24, 24))
        for c in range(heads):
            own = [d for d, label in zip(deltas, labels, strict=True) if label == c]
            if own:
                mean = sum(own) / len(own)
                gram += len(own) * mean.T @ mean
        least = min(least, 1 - float(np.linalg.eigvalsh(gram)[-4:].sum()) / total)
    assert fit_exact(factors, heads, 4, starts=8, scales=False).objective == pytest.approx(least)


def test_multiples_of_few_matrices_are_found_whatever_their_factors() -> None:
    labels = (0, 1, 0, 2, 1, 0, 2)
    factors = clustered(8, labels, own=0.0)
    fit = fit_exact(factors, 3, 9)
    assert fit.assignment.tolist() == list(labels)
    assert fit.objective < 1e-18
    assert fit_exact(factors, 3, 9, scales=False).objective > 0.05


def test_more_heads_more_rank_and_more_starts_do_no_harm() -> None:
    factors = clustered(9, (0, 1, 2, 3, 0, 1, 2, 3), own=1.0)
    every = fit_exact(factors, 8, 4).objective
    few = [fit_exact(factors, m, 4, starts=6).objective for m in (1, 2, 4)]
    assert every <= min(few) + 1e-12
    assert few == sorted(few, reverse=True)
    wide = [fit_exact(factors, 8, r).objective for r in (1, 2, 4, 8, 12)]
    assert wide == sorted(wide, reverse=True)
    starts = [fit_exact(factors, 3, 4, starts=k).objective for k in (1, 4, 16)]
    assert starts == sorted(starts, reverse=True)


def test_order_of_tasks_and_factoring_do_not_matter() -> None:
    factors = clustered(10, own=0.5)
    w = [1.0, 2.0, 1.5, 0.7, 1.2, 3.0]
    fit = fit_exact(factors, 3, 4, w).merged()
    order = [4, 2, 0, 5, 3, 1]
    other = fit_exact([factors[i] for i in order], 3, 4, [w[i] for i in order]).merged()
    rng = np.random.default_rng(1)
    again = fit_exact([refactored(f, rng) for f in factors], 3, 4, w).merged()
    for place, t in enumerate(order):
        assert apart(made(other, place), made(fit, t)) < 1e-6
        assert apart(made(again, t), made(fit, t)) < 1e-6


def test_tasks_share_one_input_and_tasks_of_a_head_one_object() -> None:
    factors = clustered(12, own=0.3)
    fit = fit_exact(factors, 3, 4)
    merged = fit.merged()
    assert len({id(f.A) for f in merged.factors}) == 1
    assert len({id(f) for f in merged.factors}) == 3
    for t in range(len(factors)):
        own = fit.scales[t] * fit.heads[fit.assignment[t]] @ fit.A
        assert np.array_equal(made(merged, t) == 0, own == 0)
        assert apart(made(merged, t), own) < 1e-14


def test_named_cases() -> None:
    zero = Factors(np.zeros((5, 2)), np.ones((2, 4)))
    fit = fit_exact([zero, zero, zero], 2, 3, starts=1)
    assert fit.objective == 0
    assert np.isfinite(fit.A).all()
    assert np.isfinite(fit.scales).all()
    some = unrelated(0, 1, 5, 4, 2)[0]
    mixed = fit_exact([zero, some, zero], 2, 2, starts=1)
    assert mixed.objective < 1e-25
    assert np.array_equal(made(mixed.merged(), 0), np.zeros((5, 4)))
    # A rank above the core's width, a lone task, the same task several times.
    wide = fit_exact([some], 1, 50, starts=1)
    assert wide.A.shape == (2, 4)
    assert wide.objective < 1e-25
    same = fit_exact([some] * 4, 3, 2, starts=1)
    assert same.objective < 1e-25
    assert set(same.assignment.tolist()) == {0, 1, 2}


def test_counts_out_of_range_are_refused() -> None:
    factors = unrelated(0)
    for arguments in ((4, 2), (2, 0), (2, 2, [1.0, 0.0, 1.0])):
        with pytest.raises(UsageError):
            fit_exact(factors, *arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        fit_exact([], 1, 2)
    with pytest.raises(AlignmentError):
        fit_exact([factors[0], Factors(factors[0].B[:5], factors[0].A)], 1, 2)
