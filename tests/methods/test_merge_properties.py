"""What the registry claims of each method, tried on every row; a new row inherits these tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from method_cases import apart, dense, made, refactored, unrelated

from hydraopt.errors import AlignmentError, UsageError
from hydraopt.linalg.shapes import Factors
from hydraopt.methods import METHODS, Method
from hydraopt.methods.registry import method_named
from hydraopt.methods.small import Merged

ROWS = pytest.mark.parametrize("row", METHODS.values(), ids=list(METHODS))

# What a method needs beside its defaults, so that its own idea shows on three small tasks.
OPTIONS: dict[str, dict[str, Any]] = {
    "hydraopt": {"heads": 2, "rank": 3},
    "hydraopt-gradient": {"heads": 2, "rank": 3, "steps": 60},
    "k-merge": {"clusters": 1},
    "lora-lego": {"rank": 4},
}
# Equal ranks wanted.
SAME_RANK = {"peft-linear", "peft-ties", "peft-magnitude", "k-merge"}


def tasks_for(row: Method, seed: int = 0, r: int = 3) -> list[Factors]:
    return unrelated(seed, 2 if row.name == "slerp" else 3, r=r)


def run(row: Method, factors: list[Factors], **more: Any) -> Merged:
    return row.run(factors, **(OPTIONS.get(row.name, {}) | more))


@ROWS
def test_rotation_invariance_is_as_claimed(row: Method) -> None:
    factors, rng = tasks_for(row), np.random.default_rng(1)
    other = [refactored(f, rng) for f in factors]
    assert all(apart(dense(x), dense(f)) < 1e-12 for x, f in zip(other, factors, strict=True))
    once, again = run(row, factors), run(row, other)
    far = max(apart(made(again, t), made(once, t)) for t in range(len(factors)))
    assert far < 1e-7 if row.rotation_invariant else far > 0.05, far


@ROWS
def test_order_does_not_matter_where_claimed(row: Method) -> None:
    factors = tasks_for(row)
    order = list(range(len(factors)))[::-1]
    once, again = run(row, factors), run(row, [factors[i] for i in order])
    far = max(apart(made(again, place), made(once, t)) for place, t in enumerate(order))
    # Some methods depend on the order by chance alone; only the claim is tested.
    assert far < 1e-7 or not row.order_free, far


@ROWS
def test_a_lone_adapter_comes_back_where_claimed(row: Method) -> None:
    alone = unrelated(4, 1)[0]
    if row.neutral is None:
        assert row.name in {"iso-c", "hydraopt-gradient"}
        if row.name == "iso-c":
            assert apart(made(row.run([alone])), dense(alone)) > 0.05
        return
    options = dict(row.neutral)
    if "weights" in row.defaults:
        options["weights"] = [1.0]
    merged = row.run([alone], **options)
    assert apart(made(merged), dense(alone)) < 1e-9
    assert merged.added < 1e-9
    assert len(merged.factors) == len(merged.scales) == 1


@ROWS
def test_pruning_is_not_the_identity_by_default(row: Method) -> None:
    # Otherwise the test above would show nothing: the neutral options matter.
    if row.neutral:
        alone = unrelated(4, 1)[0]
        assert apart(made(row.run([alone])), dense(alone)) > 0.05


@ROWS
def test_shapes_finiteness_and_sharing(row: Method) -> None:
    factors = tasks_for(row)
    merged = run(row, factors)
    assert len(merged.factors) == len(merged.scales) == len(factors)
    for f in merged.factors:
        assert f.B.shape[0] == 12
        assert f.A.shape[1] == 10
        assert f.B.shape[1] == f.A.shape[0] >= 1
        assert np.isfinite(f.B).all()
        assert np.isfinite(f.A).all()
    distinct = len({id(f) for f in merged.factors})
    assert distinct <= (2 if row.name.startswith("hydraopt") else 1)


@ROWS
def test_the_same_input_gives_the_same_result(row: Method) -> None:
    once, again = run(row, tasks_for(row)), run(row, tasks_for(row))
    for t in range(len(once.factors)):
        assert np.array_equal(made(once, t), made(again, t))


@ROWS
def test_nothing_learned_gives_nothing(row: Method) -> None:
    rng = np.random.default_rng(0)
    count = 2 if row.name == "slerp" else 3
    zero = [Factors(np.zeros((12, 3)), rng.standard_normal((3, 10))) for _ in range(count)]
    merged = run(row, zero)
    for t in range(count):
        assert not made(merged, t).any()
    assert merged.added == 0


@ROWS
def test_ranks_may_differ_or_are_refused(row: Method) -> None:
    factors = tasks_for(row)
    factors[1] = unrelated(9, 1, r=5)[0]
    if row.name in SAME_RANK:
        with pytest.raises(AlignmentError, match="different ranks"):
            run(row, factors)
        return
    assert np.isfinite(made(run(row, factors))).all()


@ROWS
def test_wide_ranks_do_no_harm(row: Method) -> None:
    # More parts than the module has inputs: legal, and common for small heads.
    factors = [
        Factors(np.hstack([f.B] * 5), np.vstack([f.A] * 5)) for f in tasks_for(row, 2)
    ]  # fmt: skip
    assert np.isfinite(made(run(row, factors))).all()


@ROWS
def test_wrong_input_is_refused(row: Method) -> None:
    with pytest.raises(UsageError, match="nothing to merge"):
        row.run([])
    bad = [*unrelated(0, 1), *unrelated(0, 1, m=5)]
    with pytest.raises(AlignmentError, match="12 x 10, 5 x 10"):
        row.run(bad)
    if "weights" in row.defaults:
        with pytest.raises(UsageError, match="weights do not fit"):
            row.run(tasks_for(row), weights=[1.0])
    if "rank" in row.defaults:
        with pytest.raises(UsageError, match="rank is out of range; got 0"):
            row.run(tasks_for(row), rank=0)
    if "density" in row.defaults:
        for density in (0.0, 1.5, float("nan")):
            with pytest.raises(UsageError, match="density is out of range"):
                row.run(tasks_for(row), density=density)


def test_options_of_single_methods_are_checked() -> None:
    three = unrelated(0)
    with pytest.raises(UsageError, match=r"epsilon.*got 0.5, expected 0 to less than 0.3"):
        METHODS["della"].run(three, density=0.3, epsilon=0.5)
    with pytest.raises(UsageError, match="beta and gamma"):
        METHODS["breadcrumbs"].run(three, beta=0.9, gamma=0.5)
    with pytest.raises(UsageError, match="two adapters"):
        METHODS["slerp"].run(three)
    with pytest.raises(UsageError, match="number of clusters"):
        METHODS["k-merge"].run(three, clusters=-1)
    with pytest.raises(UsageError, match="unknown method; got tie, expected hydraopt, "):
        method_named("tie")


def test_the_registry_is_whole() -> None:
    for name, row in METHODS.items():
        assert row.name == name
        assert row.claim
        assert row.paper
        assert 1980 < row.year < 2030
        assert row.run.__doc__, name
        assert set(row.neutral or {}) <= set(row.defaults)
        year = 2000 + int(row.paper[:2]) if row.paper[:4].isdigit() else row.year
        assert year <= row.year
    assert METHODS["ties"].defaults["density"] == 0.2
