"""The searches for a price, over made-up passes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from hydraopt.errors import BudgetError
from hydraopt.merging import MeanError
from hydraopt.merging.job import Course, Draft, UnreadableError
from hydraopt.merging.limits import Size, WorstError
from hydraopt.merging.search import MOST_PASSES, Guide, Trial, search_error, search_size
from hydraopt.merging.weights import Counting

FIXED = 1000


@dataclass
class MadeUp:
    """Passes whose value is a function of the price; a draft is the price that it was made at."""

    value: Callable[[float], float]
    coded: Callable[[float], float] = lambda price: 0.0
    unsettled: int = 0
    prices: list[float] = field(default_factory=list)
    courses: list[Course | None] = field(default_factory=list)

    def __call__(self, price: float, count: int, course: Course | None = None) -> Trial:
        self.prices.append(price)
        self.courses.append(course)
        assert count == len(self.prices)
        settled = count > self.unsettled
        return Trial(price, price, self.value(price), int(self.coded(price)), settled)


def bytes_of(price: float, more: float = 1.0) -> float:
    """No power law, and beside the planner's expectation by a constant."""
    return more * (5e5 / (1 + 3e5 * price**0.8) + 2e3 * price**-0.05)


def guide() -> Guide:
    return Guide(lambda price: np.array([8 * bytes_of(price)]), 1e-3)


@pytest.mark.parametrize("limit", [20_000, 60_000, 300_000])
@pytest.mark.parametrize("more", [0.8, 1.0, 1.3])
def test_a_size_is_met_from_below(limit: int, more: float) -> None:
    runner = MadeUp(lambda p: FIXED + bytes_of(p, more), lambda p: bytes_of(p, more))
    found = search_size(runner, guide(), Size(limit), FIXED)
    assert 0.99 * limit <= FIXED + bytes_of(found.draft, more) <= limit
    assert found.passes == len(runner.prices) <= 4
    assert runner.courses[0] is not None
    assert found.draft == runner.prices[-1]


@pytest.mark.parametrize("unsettled", [1, 2, 3])
@pytest.mark.parametrize("factor", [0.2, 0.5, 5, 20])
def test_what_unsettled_passes_show_is_forgotten(unsettled: int, factor: float) -> None:
    """They have other weights: neither a slope nor an end of the bracket is to come of them."""
    runner = MadeUp(lambda p: 0.0, unsettled=unsettled)
    runner.value = lambda p: math.tanh(
        (factor if len(runner.prices) <= unsettled else 1.0) * 1.7 * p**0.31
    )
    found = search_error(runner, WorstError(0.3), 1e-4)
    assert 0.97 * 0.3 <= math.tanh(1.7 * found.draft**0.31) <= 0.3
    assert found.passes <= unsettled + 5


def test_the_first_passes_alone_are_steered() -> None:
    # A size that can be met by no price, so that all passes are seen.
    runner = MadeUp(lambda p: 2e6, lambda p: 1e6)
    with pytest.raises(BudgetError) as error:
        search_size(runner, guide(), Size(1000), 10)
    assert "got 2e+06" in str(error.value)
    assert [course is not None for course in runner.courses] == [True] * 2 + [False] * 10


@pytest.mark.parametrize("budget", [MeanError(0.05), MeanError(0.3), WorstError(0.3)])
@pytest.mark.parametrize("start", [1e-9, 1e-4, 1.0])
def test_an_error_is_met_from_below(budget: MeanError | WorstError, start: float) -> None:
    runner = MadeUp(lambda p: math.tanh(1.7 * p**0.31))
    found = search_error(runner, budget, start)
    assert 0.97 * budget.limit <= runner.value(found.draft) <= budget.limit
    assert runner.prices[0] == start
    assert found.passes == len(runner.prices) <= 8


def test_the_nearest_within_the_budget_is_taken_where_none_is_near() -> None:
    # Steps so coarse that no price comes within 3 %: 0.5 and 0.09 are all there is.
    runner = MadeUp(lambda p: 0.5 if p > 1e-3 else 0.09 if p > 1e-5 else 0.05)
    found = search_error(runner, MeanError(0.1), 1e-2)
    assert found.passes <= MOST_PASSES
    assert runner.value(found.draft) == 0.09


def test_a_draft_that_is_not_settled_is_no_answer() -> None:
    # Every draft is exactly within the budget, the first three before the weights have settled.
    runner = MadeUp(lambda p: 0.1, unsettled=3)
    found = search_error(runner, MeanError(0.1), 1e-2)
    assert found.passes == 4
    sized = MadeUp(lambda p: 999.0, lambda p: 99.0, unsettled=3)
    assert search_size(sized, guide(), Size(1000), 900).passes == 4
    # The planner's expectation is of the first weights, so later passes are not steered by it.
    assert [course is not None for course in sized.courses] == [True, False, False, False]


def test_an_error_that_no_price_meets() -> None:
    with pytest.raises(BudgetError):
        search_error(MadeUp(lambda p: 0.4), WorstError(0.2), 1e-3)


def test_a_limit_below_what_can_be_had_ends_early_and_says_what_to_do() -> None:
    # A floor, as coded heads have one.
    runner = MadeUp(lambda p: math.hypot(5e-5, 0.3 * p**0.45))
    with pytest.raises(BudgetError):
        search_error(runner, MeanError(1e-5), 1e-9)
    assert len(runner.prices) < 8


def test_what_has_no_error_at_a_low_price_is_tried_at_a_higher_one() -> None:
    """Numbers of 16 bits come back exactly, and take more bytes than they need."""
    runner = MadeUp(lambda p: 0.0 if p < 1e-6 else p**0.45, lambda p: 1e3 / p**0.2)
    found = search_error(runner, WorstError(0.05), 1e-9)
    assert 0.97 * 0.05 <= runner.value(found.draft) <= 0.05
    # Adapters that change nothing have none at any price.
    assert search_error(MadeUp(lambda p: 0.0), WorstError(0.05), 1e-9).passes == 2


# --- sizes near the most that coding takes --------------------------------------------------------


def saturated(price: float) -> float:
    """Below some price nothing more is bought."""
    return bytes_of(max(price, 1e-9))


def saturated_guide() -> Guide:
    return Guide(lambda price: np.array([8 * saturated(price)]), 1e-3)


def test_a_size_beyond_the_most_that_coding_takes_ends_early() -> None:
    runner = MadeUp(lambda p: FIXED + saturated(p), saturated)
    found = search_size(runner, saturated_guide(), Size(2_000_000), FIXED)
    assert found.passes == len(runner.prices) <= 3
    assert saturated(found.draft) == saturated(0.0)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97, 0.985])
def test_a_size_just_below_the_most_that_coding_takes_is_met(share: float) -> None:
    """Far below the price at which anything changes, a slope that is seen there tells nothing."""
    limit = int(FIXED + share * saturated(0.0))
    runner = MadeUp(lambda p: FIXED + saturated(p), saturated)
    lost = Guide(lambda price: np.array([8e-3 * saturated(price)]), 1e-30)
    found = search_size(runner, lost, Size(limit), FIXED)
    assert 0.85 * limit <= FIXED + saturated(found.draft) <= limit
    assert found.passes <= MOST_PASSES


def test_a_step_that_no_price_divides_ends_the_search() -> None:
    def stepped(price: float) -> float:
        return 9e3 if price < 4e-5 else 5e3

    runner = MadeUp(lambda p: FIXED + stepped(p), stepped)
    found = search_size(runner, guide(), Size(8000), FIXED)
    assert runner.value(found.draft) == FIXED + 5e3
    assert found.passes < MOST_PASSES


# --- drafts that readers refuse -------------------------------------------------------------------


@dataclass
class Refusing(MadeUp):
    """Drafts above some price stand for more numbers than readers take."""

    most: float = math.inf

    def __call__(self, price: float, count: int, course: Course | None = None) -> Trial:
        trial = super().__call__(price, count, course)
        if price > self.most:
            draft = Draft.empty(np.ones((1, 1)), Counting(*np.ones((5, 1, 1))))
            raise UnreadableError(dataclasses.replace(draft, price=price, numbers=1 << 60))
        return trial


@pytest.mark.parametrize("start", [1e-9, 1e-4, 1.0])
def test_the_coarsest_that_readers_take_is_within_a_limit_on_errors(start: float) -> None:
    runner = Refusing(lambda p: math.tanh(1.7 * p**0.31), most=1e-5)
    found = search_error(runner, MeanError(0.3), start)
    assert 1e-5 / 1.2 < found.draft <= 1e-5


def test_a_size_is_met_though_some_of_its_drafts_are_refused() -> None:
    """Only that which is chosen has to be one that readers take."""
    runner = Refusing(lambda p: FIXED + bytes_of(p), bytes_of, most=1e-5)
    far = Guide(lambda price: np.array([80 * bytes_of(price)]), 1e-3)  # too high a price first
    found = search_size(runner, far, Size(60_000), FIXED)
    assert runner.prices[0] > 1e-5
    assert 0.99 * 60_000 <= runner.value(found.draft) <= 60_000


def test_a_size_that_is_met_by_refused_drafts_alone() -> None:
    runner = Refusing(lambda p: FIXED + bytes_of(p), bytes_of, most=1e-6)
    with pytest.raises(UnreadableError):
        search_size(runner, guide(), Size(60_000), FIXED)
    assert len(runner.prices) < MOST_PASSES


# --- the guide ------------------------------------------------------------------------------------


def test_a_guide_finds_the_price_with_few_estimates() -> None:
    asked: list[float] = []

    def estimate(price: float) -> np.ndarray:
        asked.append(price)
        # No power law.
        return np.array([5000 / (1 + 3e5 * price**0.8), 100 * price**-0.1])

    guide = Guide(estimate, 1e-3)
    for bits in (3000.0, 3100.0, 900.0):
        price = guide.price(bits)
        assert estimate(price).sum() == pytest.approx(bits, rel=2e-3)
        assert guide.bits(price) == pytest.approx(bits, rel=1e-9)
    assert len(asked) <= 3 + 15


def test_a_guide_comes_back_from_where_nothing_pays() -> None:
    guide = Guide(lambda price: np.array([1e-3 / price if price < 1e-6 else 0.0]), 1.0)
    assert guide.price(1e5) == pytest.approx(1e-8, rel=1e-2)
