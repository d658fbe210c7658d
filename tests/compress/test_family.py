"""Tasks that have something in common which the others of their module have not."""

from __future__ import annotations

import numpy as np
import pytest

from hydraopt.codec import (
    FORMS,
    CoreStore,
    Factors,
    ModuleCore,
    ModulePlan,
    WideCore,
    modes_of,
    plan_module,
)
from hydraopt.codec.core import _joined, families_of
from hydraopt.codec.costs import MEASURES
from hydraopt.codec.planner import _over, _planned
from hydraopt.codec.sides import PRIVATE

N, RANK = 96, 4
RNG = np.random.default_rng(0)
PARENT = RNG.standard_normal((N, RANK)), RNG.standard_normal((RANK, N))


def stranger() -> Factors:
    return Factors(RNG.standard_normal((N, RANK)), RNG.standard_normal((RANK, N)))


def copy(noise: float = 0.02) -> Factors:
    B, A = (x + noise * RNG.standard_normal(x.shape) for x in PARENT)
    return Factors(B, A)


def same_inputs() -> Factors:
    return Factors(RNG.standard_normal((N, RANK)), PARENT[1])


def core_of(tasks: list[Factors]) -> ModuleCore:
    return CoreStore([lambda: iter(enumerate(tasks))]).core(0)


def planned(core: ModuleCore, price: float, modes=None) -> ModulePlan:
    weights = [1 / float(s @ s) for s in core.s]
    return plan_module(core, weights, price, MEASURES["bias-aware"], modes or modes_of(FORMS))


def families(tasks: list[Factors]) -> list[list[int]]:
    return [family.tolist() for family in core_of(tasks).families]


@pytest.mark.parametrize("make", [copy, same_inputs], ids=["near copies", "the same inputs"])
@pytest.mark.parametrize("members", [2, 3, 4, 7, 11])
def test_a_family_is_told_from_strangers(make, members: int) -> None:
    order = RNG.permutation([*[True] * members, *[False] * 5])
    made = families([make() if belongs else stranger() for belongs in order])
    assert np.flatnonzero(order).tolist() in made
    assert [len(x).bit_length() for x in made] == sorted({len(x).bit_length() for x in made})


@pytest.mark.parametrize("tasks", [[copy() for _ in range(8)], [copy(), stranger()], [copy()]],
                         ids=["near copies", "two", "one"])  # fmt: skip
def test_where_all_are_alike_there_is_no_family(tasks: list[Factors]) -> None:
    assert families(tasks) == []


def test_what_is_nothing_belongs_to_nobody() -> None:
    nothing = Factors(np.zeros((N, RANK)), np.zeros((RANK, N)))
    made = families([copy(), nothing, copy(), stranger(), copy()])
    assert all(1 not in family for family in made)
    assert families_of([np.zeros((N, 0), np.float32)] * 2, [np.zeros(0)] * 4) == ()


def test_families_do_not_depend_on_sizes_of_numbers() -> None:
    scales = 10.0 ** RNG.uniform(-12, 12, 8)
    tasks = [copy() if i < 3 else stranger() for i in range(8)]
    scaled = [Factors(x.B * s, x.A) for x, s in zip(tasks, scales, strict=True)]
    for some in (tasks, scaled):
        assert [0, 1, 2] in families(some)


def test_average_linkage_is_that_of_scipy() -> None:
    """The same families arise, in whatever order; of random overlaps no two are equal."""
    from scipy.cluster.hierarchy import linkage

    for _ in range(5):
        x = RNG.random((12, 12))
        alike = (x + x.T) / 2
        np.fill_diagonal(alike, 0)
        made = [family.tolist() for family, _ in _joined(alike)]
        far = 1 - alike[np.triu_indices(12, 1)]
        groups = [[i] for i in range(12)]
        for one, other, *_ in linkage(far, "average"):
            groups.append(sorted(groups[int(one)] + groups[int(other)]))
        assert sorted(made) == sorted(groups[12:])
        for family, mean in _joined(alike):
            inside = alike[np.ix_(family, family)]
            assert mean == pytest.approx(inside[np.triu_indices(len(family), 1)].mean())


def test_a_space_of_a_family_is_that_of_its_tasks_alone() -> None:
    tasks = [stranger() for _ in range(6)]
    core, alone = core_of(tasks), core_of([tasks[1], tasks[4]])
    weights = [0.5, 1.0, 2.0, 3.0, 0.1, 1.0]
    family = np.array([1, 4])
    for side, space, own in zip(
        ("left", "right"),
        core.spaces(weights, family=family),
        alone.spaces([1.0, 0.1]),
        strict=True,
    ):
        assert space.values == pytest.approx(own.values)
        q = space.values.size
        there = core.directions(space, side, q)
        assert there.T @ there == pytest.approx(np.eye(q), abs=1e-5)
        assert abs(there.T @ alone.directions(own, side, q)) == pytest.approx(np.eye(q), abs=1e-3)
        stacked = core.U if side == "left" else core.V
        coordinates = space.within(core, side, q)
        assert coordinates == pytest.approx(stacked.T @ there, abs=1e-5)
        assert len(coordinates) == 6 * RANK


@pytest.mark.parametrize("members", [3, 4, 8])
@pytest.mark.parametrize("price", [1e-7, 1e-5, 1e-4])
def test_strangers_do_not_cost_a_family_its_bases(members: int, price: float) -> None:
    """Together they take what they take apart, and never more than over bases of all."""
    family, others = [copy() for _ in range(members)], [stranger() for _ in range(12)]
    core = core_of([*family, *others])
    plan = planned(core, price)
    apart = [planned(core_of(tasks), price) for tasks in (family, others)]
    assert plan.total <= 1.04 * sum(x.total for x in apart)  # what a family has to save, and more
    weights = [1 / float(s @ s) for s in core.s]
    about = price, MEASURES["bias-aware"]
    bases = _planned(core, weights, *about, None, False)
    over_all = _over(core, weights, *about, modes_of(FORMS), bases, False)
    assert plan.total <= over_all.total
    if price < 1e-4:
        assert plan.total < 0.99 * over_all.total
        assert [x.mode != PRIVATE for x in plan.tasks] == [True] * members + [False] * 12


def test_a_plan_does_not_depend_on_those_before_it() -> None:
    """Spaces are kept, one more than there are families; a store may have no room for them."""
    tasks = [copy() if i < 4 else stranger() for i in range(9)]
    core = core_of(tasks)
    first = [planned(core, price) for price in (1e-6, 1e-4, 1e-6)]
    assert 2 <= len(core._spaces.held) <= 1 + len(core.families)
    for plan in (first[2], planned(core_of(tasks), 1e-6)):
        assert (plan.bits, plan.total) == (first[0].bits, first[0].total)


def test_where_nothing_may_be_private_all_are_in_the_bases() -> None:
    core = core_of([copy() if i < 4 else stranger() for i in range(9)])
    plan = planned(core, 1e-6, modes_of(["two-sided"]))
    assert all(task.mode != PRIVATE for task in plan.tasks)


def test_a_module_in_blocks_has_none() -> None:
    wide = WideCore((0,), N, N, (np.ones(RANK),), (0, 1), lambda _: (np.zeros((N, 4)),) * 2)
    assert wide.families == ()
