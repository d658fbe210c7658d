"""Each merging method against a few lines on dense matrices."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.rivals.merging import METHODS, by_mergekit
from benchmarks.rivals.merging.core import small_core
from hydraopt.codec import Array, Factors
from hydraopt.merging import Method
from tests.methods.method_cases import apart, dense, made, refactored, unrelated

Mean = Callable[[list[Array], list[float]], Array]
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


@pytest.mark.parametrize("density", [0.2, 0.6])
def test_knots(density: float) -> None:
    u, s, vt = np.linalg.svd(np.hstack(DELTAS), full_matrices=False)
    u, s, vt = u[:, :9], s[:9], vt[:9]
    aligned = [top(s[:, None] * part, density) for part in np.split(vt, 3, axis=1)]
    got = run("knots-ties", density=density, weights=W, lam=0.8)
    assert apart(got, 0.8 * u @ elect(aligned, W)) < 1e-5


@pytest.mark.parametrize("density", [0.2, 0.6])
def test_core_space_ties(density: float) -> None:
    u = np.linalg.svd(np.hstack([f.B for f in TASKS]), full_matrices=False)[0]
    v = np.linalg.svd(np.vstack([f.A for f in TASKS]), full_matrices=False)[2]
    cores = [top(u.T @ delta @ v.T, density) for delta in DELTAS]
    got = run("core-ties", density=density, weights=W, lam=0.8)
    assert apart(got, 0.8 * u @ elect(cores, W) @ v) < 1e-5


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
        assert apart(run("tsv-m", tasks, lam=0.9), want) < 1e-5


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


def test_iso_c_takes_the_mean_over_values_that_are_not_zero() -> None:
    # Two equal tasks: the core is 6 x 6 and the sum has three parts.
    s = np.linalg.svd(DELTAS[0], compute_uv=False)[:3]
    got = np.linalg.svd(run("iso-c", [TASKS[0], TASKS[0]]), compute_uv=False)
    assert got[:3] == pytest.approx([2 * s.mean()] * 3)
    assert got[3] < 1e-9


@pytest.mark.parametrize(
    ("name", "density", "mean"),
    [("ties", 0.2, elect), ("ties", 1.0, elect), ("magnitude", 0.5, weighted)],
)
def test_pruning_of_whole_matrices(name: str, density: float, mean: Mean) -> None:
    want = mean([top(delta, density) for delta in DELTAS], W)
    assert apart(run(name, density=density, weights=W, rank=FULL), want) < 1e-5


@pytest.mark.parametrize("name", ["average", "task-arithmetic", "peft-svd"])
def test_sums_are_cut_to_their_best_parts(name: str) -> None:
    lam = 0.4 if name == "task-arithmetic" else 1.0
    u, s, vt = np.linalg.svd(lam * weighted(DELTAS, W))
    assert apart(run(name, weights=W, rank=2), (u[:, :2] * s[:2]) @ vt[:2]) < 1e-5


@pytest.mark.parametrize("name", ["dare-linear", "dare-ties"])
def test_chance_follows_the_seed(name: str) -> None:
    once, again, other = (run(name, seed=seed, rank=FULL) for seed in (1, 1, 2))
    assert np.array_equal(once, again)
    assert apart(once, other) > 0.1


def test_pefts_linear_mixes_products() -> None:
    root = np.sqrt(W)
    a, b = weighted([f.A for f in TASKS], root), weighted([f.B for f in TASKS], root)
    assert apart(run("peft-linear", weights=W), b @ a) < 1e-5
    twice = [TASKS[0], TASKS[0]]
    assert apart(run("peft-linear", twice, weights=[0.5, 0.5]), 2 * DELTAS[0]) < 1e-5
    inner = [2.0, 5.0, 3.0]
    root = np.sqrt(np.multiply(W, inner))
    a = weighted([f.A for f in TASKS], root)
    b = weighted([f.B / x for f, x in zip(TASKS, inner, strict=True)], root)
    assert apart(run("peft-linear", weights=W, inner_scales=inner), b @ a) < 1e-5


def test_what_is_around_mergekits_pruning() -> None:
    want = 0.3 * weighted(DELTAS, W) / 2
    assert apart(run("breadcrumbs", weights=W, rank=FULL), want) < 1e-5
    want = 1.1 * elect(DELTAS, W) / 2
    assert apart(run("della", weights=W, rank=FULL), want) < 1e-5


@pytest.fixture
def real_mergekit() -> None:
    """Skip where no run before has installed it."""
    if not by_mergekit.PLACE.is_dir():
        pytest.skip("mergekit is not installed in a folder of its own")


@pytest.mark.usefixtures("real_mergekit")
def test_breadcrumbs_prune_both_ends() -> None:
    parts = []
    for delta in DELTAS:
        place = np.argsort(np.argsort(np.abs(delta), axis=None)).reshape(delta.shape)
        kept = (place >= int(0.6 * delta.size)) & (place < int(0.9 * delta.size))
        parts.append(delta * kept)
    got = run("breadcrumbs", beta=0.6, gamma=0.9, weights=W, rank=FULL)
    assert apart(got, 0.3 * weighted(parts, W)) < 1e-5
    assert np.isfinite(run("della", weights=W, rank=FULL)).all()


def test_lora_lego_joins_equal_units() -> None:
    # Units of three kinds, each twice and once stretched; their mean is known.
    rng = np.random.default_rng(0)
    kinds = 10 * rng.standard_normal((3, N + M))
    one = Factors(kinds[:, N:].T.copy(), kinds[:, :N].copy())
    stretched = 1.1 * kinds[[2, 0, 1]]
    two = Factors(stretched[:, N:].T.copy(), stretched[:, :N].copy())
    want = 1.05**2 * dense(one)
    assert apart(run("lora-lego", [one, two]), want) < 1e-5
    # Opposite units in one cluster: the centre is stretched to their mean length.
    two = Factors(
        np.hstack([one.B[:, :2], 0.5 * one.B[:, 2:]]), np.vstack([one.A[:2], 0.5 * one.A[2:]])
    )
    got = METHODS["lora-lego"].run([one, two], rank=3, reweight=False)
    assert apart(made(got), dense(Factors(one.B * [1, 1, 0.75], one.A * [[1], [1], [0.75]]))) < 1e-5
    few = METHODS["lora-lego"].run([one, two], rank=1, reweight=False)
    more = METHODS["lora-lego"].run([one, two], rank=1)
    units = np.vstack([np.hstack([f.A, f.B.T]) for f in (one, two)])
    stretch = np.linalg.norm(units, axis=1).mean() / np.linalg.norm(units.mean(axis=0))
    assert apart(made(more), math.sqrt(3) * stretch**2 * made(few)) < 1e-5


def test_lora_lego_fills_every_cluster() -> None:
    # Six units, three of them twice: k-means alone would leave three clusters empty.
    got = METHODS["lora-lego"].run([TASKS[0], TASKS[0]], rank=6)
    assert got.factors[0].A.shape == (6, N)
    assert apart(made(got), 2 * math.sqrt(3 / 6) * DELTAS[0]) < 1e-5


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
    assert apart(made(pairs, 1), dense(mixed)) < 1e-5
    assert apart(made(pairs, 0), dense(a)) < 1e-5


def test_k_merge_keeps_a_running_mean_in_pefts_way() -> None:
    inner = [2.0, 5.0, 3.0]
    stored = [f.B / s for f, s in zip(TASKS, inner, strict=True)]
    a, b, scale = TASKS[0].A, stored[0], inner[0]
    for t, share in ((1, 1 / 2), (2, 1 / 3)):
        old, new = math.sqrt((1 - share) * scale), math.sqrt(share * inner[t])
        a, b, scale = old * a + new * TASKS[t].A, old * b + new * stored[t], 1.0
    merged = METHODS["k-merge"].run(TASKS, clusters=1, inner_scales=inner)
    assert apart(made(merged), b @ a) < 1e-5


@pytest.mark.parametrize("row", METHODS.values(), ids=list(METHODS))
def test_every_method_gives_finite_factors_for_every_task(row: Method) -> None:
    merged = row.run(TASKS)
    assert len(merged.factors) == len(merged.scales) == len(TASKS)
    assert merged.finite
    assert {(f.B.shape[0], f.A.shape[1]) for f in merged.factors} == {(M, N)}
    same = len({id(f) for f in merged.factors}) == 1
    assert same == (row.name not in {"hydraopt", "k-merge"})


@pytest.mark.parametrize("row", METHODS.values(), ids=list(METHODS))
def test_what_depends_on_products_alone(row: Method) -> None:
    rng = np.random.default_rng(1)
    other = [refactored(f, rng) for f in TASKS]
    options = {"clusters": 1} if row.name == "k-merge" else {}
    far = apart(made(row.run(other, **options)), made(row.run(TASKS, **options)))
    factorwise = {"k-merge", "lora-lego", "core-ties", "peft-linear", "peft-ties", "peft-magnitude"}
    assert far > 0.05 if row.name in factorwise else far < 1e-4


def test_the_core_gives_each_task_back() -> None:
    core = small_core(TASKS)
    for each, delta in zip(core.cores(), DELTAS, strict=True):
        assert apart(core.left @ each @ core.right.T, delta) < 1e-12
    want = weighted(DELTAS, W)
    assert apart(core.left @ core.weighted(np.array(W)) @ core.right.T, want) < 1e-12
