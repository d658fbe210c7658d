"""Each merging method against a few lines on dense matrices.

Element-wise methods are asked for full rank, so that the refit adds nothing.
"""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from method_cases import apart, dense, made, unrelated

from hydraopt.linalg.shapes import Array, Factors
from hydraopt.methods import METHODS
from hydraopt.methods.blocks import largest, refit, spans, uniform
from tests.marks import slow

M, N, R = 12, 10, 3
FULL = 10
TASKS = unrelated(0)
DELTAS = [dense(f) for f in TASKS]
W = [0.5, 1.5, 1.0]


def run(name: str, tasks: list[Factors] = TASKS, **options: object) -> Array:
    merged = METHODS[name].run(tasks, **options)
    assert merged.scales == (1.0,) * len(tasks)
    return made(merged)


def weighted(deltas: list[Array], w: list[float]) -> Array:
    return np.tensordot(w, np.stack(deltas), 1)


def top(delta: Array, density: float) -> Array:
    """Keep the largest entries, by a full sort."""
    keep = int(density * delta.size)
    bound = np.sort(np.abs(delta), axis=None)[::-1][keep - 1]
    return np.where(np.abs(delta) >= bound, delta, 0.0)


def elect(parts: list[Array], w: list[float]) -> Array:
    """One entry at a time."""
    result = np.zeros_like(parts[0])
    for place in np.ndindex(*result.shape):
        entries = [part[place] for part in parts]
        sign = 1 if sum(entries) >= 0 else -1
        agree = [x * e for x, e in zip(w, entries, strict=True) if np.sign(e) == sign]
        result[place] = sum(agree) / max(len(agree), 1)
    return result


def test_sums() -> None:
    mean = sum(DELTAS) / 3
    assert apart(run("average"), mean) < 1e-12
    assert apart(run("average", weights=W), weighted(DELTAS, W)) < 1e-12
    assert apart(run("task-arithmetic", lam=0.7), 0.7 * sum(DELTAS)) < 1e-12
    assert apart(run("core-ta", lam=0.7), 0.7 * sum(DELTAS)) < 1e-12
    assert apart(run("peft-cat", weights=W), weighted(DELTAS, W)) < 1e-12


@pytest.mark.parametrize("name", ["average", "task-arithmetic", "core-ta", "peft-svd"])
def test_a_cut_is_the_truncated_svd_and_its_cost_is_told(name: str) -> None:
    whole = METHODS[name].run(TASKS, weights=W, **({} if name == "peft-svd" else {"rank": None}))
    merged = METHODS[name].run(TASKS, weights=W, rank=2)
    lam = METHODS[name].defaults.get("lam", 1.0)
    u, s, vt = np.linalg.svd(lam * weighted(DELTAS, W))
    assert apart(made(merged), (u[:, :2] * s[:2]) @ vt[:2]) < 1e-10
    cost = math.sqrt(float(np.sum(s[2:] ** 2) / np.sum(s**2)))
    assert merged.added == pytest.approx(cost)
    assert whole.factors[0].A.shape[0] == (3 if name == "peft-svd" else 9)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
def test_ties_and_magnitude(density: float) -> None:
    parts = [top(delta, density) for delta in DELTAS]
    got = run("ties", density=density, weights=W, lam=0.9, rank=FULL)
    assert apart(got, 0.9 * elect(parts, W)) < 1e-10
    got = run("magnitude", density=density, weights=W, rank=FULL)
    assert apart(got, weighted(parts, W)) < 1e-10


@pytest.mark.parametrize("name", ["dare-linear", "dare-ties"])
def test_dare(name: str) -> None:
    parts = []
    for t, delta in enumerate(DELTAS):
        kept = uniform(7, t, 0, M, N) < 0.3
        assert 0 < kept.mean() < 0.6
        parts.append(delta * kept / 0.3)
    want = weighted(parts, W) if name == "dare-linear" else elect(parts, W)
    assert apart(run(name, density=0.3, seed=7, weights=W, rank=FULL), want) < 1e-10
    assert apart(run(name, density=0.3, seed=8, weights=W, rank=FULL), want) > 0.1


def test_dare_is_right_on_average() -> None:
    mean = sum(run("dare-linear", density=0.5, seed=s, rank=FULL) for s in range(400)) / 400
    once = apart(run("dare-linear", density=0.5, seed=1, rank=FULL), sum(DELTAS) / 3)
    assert apart(mean, sum(DELTAS) / 3) < 0.1 * once


def test_della() -> None:
    parts = []
    for t, delta in enumerate(DELTAS):
        drawn, part = uniform(3, t, 0, M, N), np.zeros_like(delta)
        for i, row in enumerate(delta):
            order = sorted(range(N), key=lambda j: abs(row[j]))
            for place, j in enumerate(order):
                stays = 0.5 - 0.2 + 2 * 0.2 * place / (N - 1)
                if drawn[i, j] < stays:
                    part[i, j] = row[j] / stays
        parts.append(part)
    got = run("della", density=0.5, epsilon=0.2, seed=3, weights=W, lam=1.1, rank=FULL)
    assert apart(got, 1.1 * elect(parts, W)) < 1e-10


@pytest.mark.parametrize(("beta", "gamma"), [(0.6, 0.95), (0.0, 0.9), (0.5, 1.0), (0.85, 0.993)])
def test_breadcrumbs(beta: float, gamma: float) -> None:
    parts = []
    for delta in DELTAS:
        place = np.empty(delta.size, int)
        place[np.argsort(np.abs(delta), axis=None)] = np.arange(delta.size)
        place = place.reshape(delta.shape)
        kept = (place >= int(beta * delta.size)) & (place < int(gamma * delta.size))
        assert kept.any()
        parts.append(delta * kept)
    got = run("breadcrumbs", beta=beta, gamma=gamma, weights=W, lam=0.3, rank=FULL)
    assert apart(got, 0.3 * weighted(parts, W)) < 1e-10


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp(t: float) -> None:
    first, second = DELTAS[:2]
    a, b = first.ravel() / np.linalg.norm(first), second.ravel() / np.linalg.norm(second)
    angle = np.arccos(a @ b)
    want = (np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle)
    assert apart(run("slerp", TASKS[:2], t=t), want) < 1e-10
    near = Factors(TASKS[0].B * 2, TASKS[0].A)
    assert apart(run("slerp", [TASKS[0], near], t=t), (1 + t) * first) < 1e-10


def test_slerp_keeps_the_length_that_the_mean_loses() -> None:
    equal = [Factors(f.B / np.linalg.norm(dense(f)), f.A) for f in TASKS[:2]]
    assert np.linalg.norm(run("slerp", equal)) == pytest.approx(1.0)
    assert np.linalg.norm(run("average", equal)) < 0.9


@pytest.mark.parametrize("density", [0.2, 0.6])
def test_knots(density: float) -> None:
    u, s, vt = np.linalg.svd(np.hstack(DELTAS), full_matrices=False)
    u, s, vt = u[:, :9], s[:9], vt[:9]
    aligned = [top(s[:, None] * part, density) for part in np.split(vt, 3, axis=1)]
    got = run("knots-ties", density=density, weights=W, lam=0.8)
    assert apart(got, 0.8 * u @ elect(aligned, W)) < 1e-12


@pytest.mark.parametrize("density", [0.2, 0.6])
def test_core_space_ties(density: float) -> None:
    u = np.linalg.svd(np.hstack([f.B for f in TASKS]), full_matrices=False)[0]
    v = np.linalg.svd(np.vstack([f.A for f in TASKS]), full_matrices=False)[2]
    cores = [top(u.T @ delta @ v.T, density) for delta in DELTAS]
    got = run("core-ties", density=density, weights=W, lam=0.8)
    assert apart(got, 0.8 * u @ elect(cores, W) @ v) < 1e-12


def test_tsv_merge() -> None:
    # min(m, n) / T = 3 parts of each task, all of them; four tasks would keep two.
    for tasks, share in ((TASKS, 3), (unrelated(1, 4), 2)):
        us, ss, vs = [], [], []
        for f in tasks:
            u, s, vt = np.linalg.svd(dense(f))
            us.append(u[:, :share])
            ss.append(s[:share])
            vs.append(vt[:share])
        p, _, q = np.linalg.svd(np.hstack(us), full_matrices=False)
        p2, _, q2 = np.linalg.svd(np.vstack(vs), full_matrices=False)
        want = 0.9 * p @ q @ np.diag(np.concatenate(ss)) @ p2 @ q2
        assert apart(run("tsv-m", tasks, lam=0.9), want) < 1e-12


def test_tsv_merge_of_equal_tasks_is_the_task() -> None:
    # Their vectors coincide, so the nearest orthonormal ones are not unique; the span decides.
    assert apart(run("tsv-m", [TASKS[0], TASKS[0]]), DELTAS[0]) < 1e-9


def test_iso_c() -> None:
    u, s, vt = np.linalg.svd(weighted(DELTAS, W), full_matrices=False)
    assert s[8] > 1e-6 > s[9]
    want = 0.5 * s[:9].mean() * u[:, :9] @ vt[:9]
    assert apart(run("iso-c", weights=W, lam=0.5), want) < 1e-9
    merged = METHODS["iso-c"].run(TASKS, weights=W, lam=0.5, rank=4)
    assert apart(made(merged), 0.5 * s[:9].mean() * u[:, :4] @ vt[:4]) < 1e-9
    assert merged.added == pytest.approx(apart(made(merged), want))


def test_iso_c_takes_the_mean_over_values_that_are_not_zero() -> None:
    # Two equal tasks: the core is 6 x 6 and the sum has three parts.
    s = np.linalg.svd(DELTAS[0], compute_uv=False)[:3]
    got = np.linalg.svd(run("iso-c", [TASKS[0], TASKS[0]]), compute_uv=False)
    assert got[:3] == pytest.approx([2 * s.mean()] * 3)
    assert got[3] < 1e-9


def test_peft_linear_and_its_kin_mix_products() -> None:
    root = np.sqrt(W)
    a, b = weighted([f.A for f in TASKS], root), weighted([f.B for f in TASKS], root)
    assert apart(run("peft-linear", weights=W), b @ a) < 1e-12
    a = elect([top(f.A, 0.4) for f in TASKS], list(root))
    b = elect([top(f.B, 0.4) for f in TASKS], list(root))
    assert apart(run("peft-ties", weights=W, density=0.4), b @ a) < 1e-12
    a = weighted([top(f.A, 0.4) for f in TASKS], root)
    b = weighted([top(f.B, 0.4) for f in TASKS], root)
    assert apart(run("peft-magnitude", weights=W, density=0.4), b @ a) < 1e-12
    # A negative weight turns one side only.
    got = run("peft-linear", [TASKS[0]], weights=[-0.5])
    assert apart(got, -0.5 * DELTAS[0]) < 1e-12
    twice = [TASKS[0], TASKS[0]]
    assert apart(run("peft-linear", twice, weights=[0.5, 0.5]), 2 * DELTAS[0]) < 1e-12


def test_lora_lego_joins_equal_units() -> None:
    # Units of three kinds, each twice and once stretched; their mean is known.
    rng = np.random.default_rng(0)
    kinds = 10 * rng.standard_normal((3, N + M))
    one = Factors(kinds[:, N:].T.copy(), kinds[:, :N].copy())
    stretched = 1.1 * kinds[[2, 0, 1]]
    two = Factors(stretched[:, N:].T.copy(), stretched[:, :N].copy())
    want = 1.05**2 * dense(one)
    assert apart(run("lora-lego", [one, two]), want) < 1e-10
    # Opposite units in one cluster: the centre is stretched to their mean length.
    two = Factors(
        np.hstack([one.B[:, :2], 0.5 * one.B[:, 2:]]), np.vstack([one.A[:2], 0.5 * one.A[2:]])
    )
    got = METHODS["lora-lego"].run([one, two], rank=3, reweight=False)
    assert (
        apart(made(got), dense(Factors(one.B * [1, 1, 0.75], one.A * [[1], [1], [0.75]]))) < 1e-10
    )
    few = METHODS["lora-lego"].run([one, two], rank=1, reweight=False)
    more = METHODS["lora-lego"].run([one, two], rank=1)
    units = np.vstack([np.hstack([f.A, f.B.T]) for f in (one, two)])
    stretch = np.linalg.norm(units, axis=1).mean() / np.linalg.norm(units.mean(axis=0))
    assert apart(made(more), math.sqrt(3) * stretch**2 * made(few)) < 1e-10


def test_lora_lego_fills_every_cluster() -> None:
    # Six units, three of them twice: k-means alone would leave three clusters empty.
    got = METHODS["lora-lego"].run([TASKS[0], TASKS[0]], rank=6)
    assert got.factors[0].A.shape == (6, N)
    assert apart(made(got), 2 * math.sqrt(3 / 6) * DELTAS[0]) < 1e-10


def test_k_merge_joins_the_most_similar_as_they_arrive() -> None:
    a, b, c = TASKS
    like_b = Factors(1.2 * b.B, b.A)
    merged = METHODS["k-merge"].run([a, b, like_b, c, a], clusters=2)
    kept = merged.factors
    assert kept[1] is kept[2]
    assert kept[0] is kept[4]
    assert kept[0] is not kept[1]
    pairs = METHODS["k-merge"].run([a, b, like_b], clusters=2)
    mixed = Factors(
        math.sqrt(0.5) * (b.B + like_b.B), math.sqrt(0.5) * (b.A + like_b.A)
    )  # fmt: skip
    assert apart(made(pairs, 1), dense(mixed)) < 1e-12
    assert apart(made(pairs, 0), dense(a)) < 1e-12


def test_k_merge_keeps_a_running_mean_in_pefts_way() -> None:
    inner = [2.0, 5.0, 3.0]
    stored = [f.B / s for f, s in zip(TASKS, inner, strict=True)]
    a, b, scale = TASKS[0].A, stored[0], inner[0]
    for t, share in ((1, 1 / 2), (2, 1 / 3)):
        old, new = math.sqrt((1 - share) * scale), math.sqrt(share * inner[t])
        a, b, scale = old * a + new * TASKS[t].A, old * b + new * stored[t], 1.0
    merged = METHODS["k-merge"].run(TASKS, clusters=1, inner_scales=inner)
    assert apart(made(merged), b @ a) < 1e-12


# --- blocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 10, 37, 1 << 20])
@pytest.mark.parametrize("keep", [0, 1, 17, 60, 119, 120])
def test_the_cut_keeps_exactly_the_largest(keep: int, block: int) -> None:
    cut = largest(TASKS[0], keep, block)
    delta = DELTAS[0]
    mask = np.concatenate([cut.of(i, TASKS[0].B[i:j] @ TASKS[0].A) for i, j in spans(M, N, block)])
    assert mask.sum() == keep
    if 0 < keep < delta.size:
        assert np.abs(delta)[mask].min() >= np.abs(delta)[~mask].max()


@pytest.mark.parametrize("block", [1, 25, 1 << 20])
def test_among_equals_the_first_stay(block: int) -> None:
    ones = Factors(np.ones((6, 1)), np.array([[1.0, -1.0, 1.0, 1.0]]))
    cut = largest(ones, 11, block)
    mask = np.concatenate([cut.of(i, ones.B[i:j] @ ones.A) for i, j in spans(6, 4, block)])
    assert mask.ravel().tolist() == [True] * 11 + [False] * 13


def test_chance_does_not_depend_on_the_blocks() -> None:
    whole = uniform(5, 2, 0, 9, 7)
    parts = [uniform(5, 2, i, j, 7) for i, j in spans(9, 7, 14)]
    assert len(parts) == 5
    assert np.array_equal(np.vstack(parts), whole)
    assert not np.array_equal(whole, uniform(5, 1, 0, 9, 7))
    assert 0.3 < whole.mean() < 0.7


ENTRIES = ["ties", "dare-linear", "dare-ties", "della", "breadcrumbs", "magnitude"]


@pytest.mark.parametrize("name", [x if x == "della" else slow(x) for x in ENTRIES])
def test_no_more_than_a_few_blocks_are_held(name: str) -> None:
    # One dW is 5 MB; blocks are 128 kB, and the counts of a radix pass take 2 MB.
    tasks = unrelated(2, 2, 800, 800, 4)
    tracemalloc.start()
    try:
        merged = METHODS[name].run(tasks, block=16_000)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert merged.factors[0].A.shape == (4, 800)


@pytest.mark.parametrize("name", ENTRIES)
def test_the_size_of_blocks_does_not_matter(name: str) -> None:
    # Large enough for the randomised refit.
    tasks = unrelated(2, 3, 300, 300, 4)
    small, large = (METHODS[name].run(tasks, block=size) for size in (3000, 40000))
    assert apart(made(small), made(large)) < 1e-6
    assert small.added == pytest.approx(large.added, rel=1e-6)


def test_the_refit_is_near_the_best_and_tells_its_error() -> None:
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((300, 300)))[0] for _ in range(2))
    s = 0.9 ** np.arange(300)
    full = (u * s) @ v.T
    found, added = refit(lambda i, j: full[i:j], 300, 300, 8, block=6000)
    assert added == pytest.approx(apart(dense(found), full), rel=1e-9)
    best = math.sqrt(float(np.sum(s[8:] ** 2) / np.sum(s**2)))
    assert best <= added < 1.01 * best
    # Each pass comes nearer, and without any the refit is visibly worse.
    costs = [
        refit(lambda i, j: full[i:j], 300, 300, 8, passes=p, oversample=0, block=6000)[1]
        for p in range(3)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 1.05 * best > costs[2]
    low = full[:, :5] @ rng.standard_normal((5, 300))
    found, added = refit(lambda i, j: low[i:j], 300, 300, 8, block=6000)
    assert added < 1e-12
    assert found.A.shape[0] == 5
