"""The planner: its estimate is near what coding takes, and each form wins where it should."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hydraopt.codec import (
    FORMS,
    Mode,
    Way,
    measure_named,
    modes_of,
    plan_module,
    write_basis,
    write_record,
)
from hydraopt.codec.costs import (
    FIRST_CLASS,
    MEASURES,
    SideCost,
    noise_of,
    part_curve,
    rate_of,
    side_costs,
)
from hydraopt.codec.encoder import coefficients
from hydraopt.codec.stream import StreamWriter
from hydraopt.errors import UsageError
from tests.compress.core_factors import Pair, core_of, encoded, low_rank, orthonormal, planned
from tests.marks import slow
from tests.raising import raises

M, N, R, T = 96, 160, 8, 5


def independent(seed: int = 0, tasks: int = T) -> list[Pair]:
    rng = np.random.default_rng(seed)
    return [low_rank(rng, M, N, R) for _ in range(tasks)]


def one_input_space(seed: int = 0, tasks: int = T) -> list[Pair]:
    """The paper's case: all tasks read the same R directions of the input."""
    rng = np.random.default_rng(seed)
    right = orthonormal(rng, N, R)
    return [low_rank(rng, M, N, R, right=right, decay=0.9) for _ in range(tasks)]


def both_spaces(seed: int = 0, tasks: int = T) -> list[Pair]:
    rng = np.random.default_rng(seed)
    left, right = orthonormal(rng, M, R), orthonormal(rng, N, R)
    return [low_rank(rng, M, N, R, left=left, right=right, decay=0.9) for _ in range(tasks)]


def nearly_one(seed: int = 0, tasks: int = T) -> list[Pair]:
    """One adapter, and checkpoints of it."""
    rng = np.random.default_rng(seed)
    b, a = low_rank(rng, M, N, R)
    return [
        (b + 0.003 * rng.standard_normal(b.shape), a + 0.003 * rng.standard_normal(a.shape))
        for _ in range(tasks)
    ]


def coded_bits(pairs: list[Pair], price: float, forms: list[str]) -> float:
    module = encoded(pairs, price, forms)
    writer = StreamWriter()  # one stream for all, so that flushing it does not count
    write_basis(writer, module.left)
    write_basis(writer, module.right)
    for record in module.records:
        write_record(writer, record, module.left is not None or module.right is not None)
    return 8 * len(writer.finish())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [independent, one_input_space, both_spaces])
@pytest.mark.parametrize("price", [slow(1e-4), 1e-6])
def test_estimated_bits_are_near_the_coded_ones(make, form, price) -> None:
    pairs = make()
    expected = planned(pairs, price, [form])[1].bits
    # A stream this short has not yet learned its probabilities: a bit or two for each context.
    learning = 3000
    assert expected * 0.85 - learning <= coded_bits(pairs, price, [form])
    assert coded_bits(pairs, price, [form]) <= expected * 1.15 + learning


@pytest.mark.parametrize("price", [3e-6, 1e-7, 1e-9])
def test_estimated_bits_of_larger_modules_are_near(price) -> None:
    rng = np.random.default_rng(1)
    pairs = [low_rank(rng, 500, 700, 16, decay=0.95) for _ in range(4)]
    expected = planned(pairs, price, ["private"])[1].bits
    assert coded_bits(pairs, price, ["private"]) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("form", FORMS)
def test_estimated_harm_is_near_the_measured_error(form) -> None:
    # With the frobenius measure harm is the squared relative error of what was really written.
    for make, price in ((both_spaces, 1e-5), (one_input_space, 1e-4)):
        pairs = make(3)
        _, plan = planned(pairs, price, [form])
        module = encoded(pairs, price, [form])
        harm = sum(task.cost for task in plan.tasks)
        error = sum(e / n for e, n in zip(module.errors, module.energies, strict=True))
        assert error == pytest.approx(harm, rel=0.25), make.__name__


def forms_chosen(pairs, price, measure=MEASURES["frobenius"]) -> set[str]:
    return {task.mode.form for task in planned(pairs, price, list(FORMS), measure)[1].tasks}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("price", [1e-4, 1e-6])
def test_independent_tasks_stay_private(measure, price) -> None:
    assert forms_chosen(independent(), price, measure) == {"private"}


@pytest.mark.parametrize("price", [1e-5, 1e-7])
def test_a_common_input_space_is_shared(price) -> None:
    assert forms_chosen(one_input_space(), price) <= {"shared-input", "two-sided"}


@pytest.mark.parametrize("price", [1e-5, 1e-7])
def test_a_common_output_space_is_shared(price) -> None:
    turned = [(a.T.copy(), b.T.copy()) for b, a in one_input_space()]
    assert forms_chosen(turned, price) <= {"shared-output", "two-sided"}


@pytest.mark.parametrize("price", [1e-5, 1e-7])
def test_two_common_spaces_are_shared(price) -> None:
    assert forms_chosen(both_spaces(), price) == {"two-sided"}


@pytest.mark.parametrize("make", [one_input_space, both_spaces])
def test_a_basis_is_no_larger_than_a_block_may_be(make, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, price = make(), 1e-7
    plan = planned(pairs, price, list(FORMS))[1]
    wide = [basis for basis in (plan.left, plan.right) if basis is not None]
    lengths = pairs[0][0].shape[0], pairs[0][1].shape[1]
    most = max(basis.q for basis in wide) * max(lengths) - 1
    for module in ("codec.stream", "codec.planner"):
        monkeypatch.setattr(f"hydraopt.{module}.MOST_NUMBERS", most)
    made = encoded(pairs, price, list(FORMS))
    bases = [basis for basis in (made.left, made.right) if basis is not None]
    assert bases
    for basis in bases:
        basis.block.check()
    assert max(made.errors) < 0.1 * min(made.energies)


def test_near_copies_cost_far_less_than_private() -> None:
    pairs = nearly_one(tasks=8)
    price = 1e-5
    assert coded_bits(pairs, price, list(FORMS)) < 0.5 * coded_bits(pairs, price, ["private"])


@pytest.mark.parametrize("make", [independent, one_input_space, both_spaces, nearly_one])
def test_more_forms_never_cost_more(make) -> None:
    pairs = make()
    best = planned(pairs, 1e-5, list(FORMS))[1].total
    for form in FORMS:
        assert best <= planned(pairs, 1e-5, [form])[1].total * (1 + 1e-12)


def test_importance_moves_bits() -> None:
    pairs = independent(tasks=2)
    core = core_of(pairs)
    even, uneven = (
        plan_module(core, weights, 1e-5, MEASURES["bias-aware"], modes_of(["private"])).tasks
        for weights in ([1.0, 1.0], [10.0, 1.0])
    )
    assert uneven[0].bits > 1.1 * even[0].bits
    assert uneven[1].bits == even[1].bits


def side_at(side: SideCost, part: int, spread: int) -> tuple[float, float, float]:
    """The bits, noise and lost effect of one side of a part, as loops.c computes them."""
    lost, rounding = side.shares[:, part]
    if side.way in (Way.EXPLICIT, Way.STARTED):
        return side.length * rate_of(spread), noise_of(spread), 0.0
    if side.way is Way.SHARED:
        return side.q * rate_of(spread), noise_of(spread) + rounding, lost
    within = rounding + noise_of(spread + side.wider)
    finer = spread + min(round(2 * math.log2(max(lost + within, 1e-9))), 0)
    own = noise_of(finer)
    share = own / (1 + own) if finer >= FIRST_CLASS else 1.0
    bits = side.length * rate_of(finer) + side.q * rate_of(spread + side.wider)
    return bits, share * within + lost * share * (1 - share), lost * share**2


@pytest.mark.parametrize("left", [Way.EXPLICIT, Way.SHARED, Way.PREDICTED])
@pytest.mark.parametrize("right", [Way.EXPLICIT, Way.SHARED, Way.PREDICTED])
def test_the_planner_takes_the_cheapest_classes(left, right) -> None:
    # Against every pair of classes on the curve, part by part, at the same costs.
    measure, price = MEASURES["bias-aware"], 1e-5
    core = core_of(nearly_one())
    plan = plan_module(core, [1.0] * T, price, measure, [Mode(left, right)])
    energies = np.concatenate([s**2 for s in core.s])
    owners = np.repeat(np.arange(T), [s.size for s in core.s])
    costs = []
    for side, (basis, way) in enumerate(((plan.left, left), (plan.right, right))):
        length = (core.m, core.n)[side]
        sides = zip(("left", "right"), core.spaces([1.0] * T), strict=True)
        both = [space.within(core, side, space.values.size) for side, space in sides]
        own = both[side][:, : basis.q] if basis else np.zeros((0, 0))
        of_ways = side_costs([way], length, basis, own)
        costs.append(of_ways.get(way, of_ways[Way.EXPLICIT]))
    curve = part_curve(costs[0].numbers, costs[1].numbers, measure.output)
    harm = np.zeros(T)
    for i, task in enumerate(owners):
        options = []
        for classes in zip(curve.left, curve.right, strict=True):
            (bits_of_left, noise_of_left, lost_of_left), (bits, noise, lost) = (
                side_at(x, min(i, x.shares.shape[1] - 1), int(spread))
                for x, spread in zip(costs, classes, strict=True)
            )
            noise += noise_of_left / measure.output
            kept = (1 - lost_of_left) * (1 - lost)
            cost = kept * measure.lost * noise / (measure.lost + noise)
            cost = energies[i] * (cost + measure.projected * (1 - kept))
            options.append((cost + price * (bits_of_left + bits + 10), cost))
        best, cost = min(options)
        cut = measure.lost * energies[i]
        harm[task] += cost if best < cut else cut
    assert np.allclose([task.cost for task in plan.tasks], harm, rtol=1e-9)


def test_forms_that_need_a_basis_get_one_where_nothing_is_shared() -> None:
    rng = np.random.default_rng(6)
    pairs = [low_rank(rng, M, N, R) for _ in range(40)]
    assert planned(pairs, 1e-6, list(FORMS))[1].right is None
    plan = planned(pairs, 1e-6, ["shared-input"])[1]
    assert plan.right is not None
    assert all(task.left.size for task in plan.tasks)


def test_a_price_too_high_stores_nothing() -> None:
    _, plan = planned(independent(), 10.0, list(FORMS))
    assert plan.left is plan.right is None
    assert all(task.left.size == 0 for task in plan.tasks)
    assert sum(task.cost for task in plan.tasks) == pytest.approx(T)


# --- the tables behind it -----------------------------------------------------------------------


def test_the_tables_are_monotone() -> None:
    classes = np.arange(FIRST_CLASS, 93)
    assert (np.diff(rate_of(classes)) > 0).all()
    assert (np.diff(noise_of(classes)) < 0).all()
    # 6.02 dB a bit: the slope of every good quantiser.
    assert noise_of(np.array([60]))[0] / noise_of(np.array([64]))[0] == pytest.approx(4, rel=1e-9)
    assert rate_of(np.array([64]))[0] - rate_of(np.array([60]))[0] == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(("a", "b"), [(10, 10), (64, 576), (2048, 8)])
def test_the_curve_is_a_hull(a, b) -> None:
    curve = part_curve(a, b, 4.0)
    assert (np.diff(curve.bits) > 0).all()
    assert (np.diff(curve.noise) < 0).all()
    slopes = np.diff(curve.noise) / np.diff(curve.bits)
    assert (np.diff(slopes) >= -1e-9 * np.abs(slopes[1:])).all()
    assert np.allclose(curve.bits, a * rate_of(curve.left) + b * rate_of(curve.right))
    assert np.allclose(curve.noise, noise_of(curve.left) / 4 + noise_of(curve.right))


# --- measures -----------------------------------------------------------------------------------


def test_an_unknown_measure_is_refused() -> None:
    with raises(UsageError, got="'fro'", expected="frobenius, bias-aware"):
        measure_named("fro")


def test_the_unbiased_measure_keeps_the_inner_product() -> None:
    # <dW~, dW> = <dW, dW>: the fit does not shrink, where least squares does.
    pairs = independent(4)
    bias = {}
    for name in ("frobenius", "bias-aware"):
        module = encoded(pairs, 3e-4, ["private"], MEASURES[name])
        got = [
            float(np.sum((record.factors.B @ record.factors.A) * (b @ a)))
            / float(np.sum((b @ a) ** 2))
            for record, (b, a) in zip(module.records, pairs, strict=True)
        ]
        bias[name] = 1 - float(np.mean(got))
    assert bias["frobenius"] > 0.03
    assert abs(bias["bias-aware"]) < bias["frobenius"]


# --- what is written whatever the plan says -------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "kept"), [(1.0, True), (7.9, True), (1 / 7.9, True), (8.1, False), (-1.0, False)]
)
def test_a_coefficient_moves_eightfold_at_most(factor: float, kept: bool) -> None:
    # The rounded left side is that of the part, times 1 / factor; what it stands for is as long.
    squared = np.full((1, 1, 1), factor**-2)
    rhs, lengths = np.full((1, 1), 1 / factor), np.full((1, 1), 1 / abs(factor))
    ((found,),) = coefficients(squared, rhs, squared, lengths)
    assert found == pytest.approx(factor if kept else 1.0)
