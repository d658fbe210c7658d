"""Counts, intervals and corrections, against numbers worked out by hand or by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from hydraopt.evaluate.probes import (
    ALL,
    CONDITIONS,
    LEAST,
    ProbeItem,
    ProbeSide,
    binomial_p,
    holm,
    probe_measures,
    wilson,
)

AMBIGUOUS, DISAMBIGUATED = CONDITIONS
SIDES = ProbeSide("one", "stereotype"), ProbeSide("two", "against")
LONG = (
    ProbeSide("ab", "stereotype"),
    ProbeSide("abcd", "against"),
    ProbeSide("abcdefgh", "unknown"),
)


@pytest.mark.parametrize(("count", "total"), [(0, 9), (3, 10), (10, 10), (61, 100)])
@pytest.mark.parametrize("chance", [0.5, 1 / 3])
def test_exact_tests_and_intervals_are_scipys(count, total, chance) -> None:
    known = binomtest(count, total, chance)
    assert binomial_p(count, total, chance) == pytest.approx(known.pvalue)
    interval = known.proportion_ci(method="wilson")
    assert wilson(count, total) == pytest.approx((interval.low, interval.high))


def test_nothing_seen_tells_nothing() -> None:
    assert binomial_p(0, 0) == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_holm_corrects_by_rank_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def _pairs(count: int) -> list[ProbeItem]:
    return [ProbeItem(SIDES, {"about": "odd" if i % 2 else "even"}) for i in range(count)]


def _scores(follow: list[bool]) -> list[np.ndarray]:
    return [np.array([-1.0, -2.0] if x else [-2.0, -1.0]) for x in follow]


def test_flips_have_a_direction_and_groups() -> None:
    items = _pairs(40)
    before = [i < 20 for i in range(40)]
    # Two even ones move away from the stereotype, six odd ones and one even one towards it.
    after = [x != (i in (0, 2, 20, 21, 23, 25, 27, 29, 31)) for i, x in enumerate(before)]
    made = probe_measures({"x": items}, {"x": _scores(after)}, {"x": _scores(before)})["x"]
    whole = made[ALL]
    assert (whole.items, whole.stereotype, whole.against) == (40, 25, 15)
    assert whole.preference.pct == 62.5
    assert whole.choices == "".join("s" if x else "a" for x in after)
    assert made["about: odd"].choices == whole.choices[1::2]
    assert whole.preference.p == pytest.approx(binomtest(25, 40).pvalue, abs=1e-6)
    change = whole.change
    assert change is not None
    assert (change.flips, change.towards, change.away) == (9, 7, 2)
    assert change.p == pytest.approx(binomtest(7, 9).pvalue, abs=1e-6)
    odd = made["about: odd"].change
    assert (odd.flips, odd.towards, odd.away) == (6, 6, 0)
    # Three tests of changes: the smallest counts three times, the largest once.
    ps = {name: said.change for name, said in made.items()}
    assert odd.p_holm == pytest.approx(3 * odd.p, abs=1e-5)
    assert max(x.p_holm for x in ps.values()) == max(x.p for x in ps.values())


def test_the_original_itself_has_no_change_and_small_groups_are_not_told_apart() -> None:
    items = _pairs(2 * LEAST - 1)
    same = _scores([True] * len(items))
    made = probe_measures({"x": items}, {"x": same}, {"x": same})["x"]
    assert made.keys() == {ALL, "about: even"}
    change = made[ALL].change
    assert (change.flips, change.p) == (0, 1.0)


def test_flips_may_all_go_to_one_sex_and_to_no_stereotype() -> None:
    items = []
    for i in range(20):
        roles = ("stereotype", "against") if i % 2 else ("against", "stereotype")
        she, he = (ProbeSide(w, r, person=w) for w, r in zip(("she", "he"), roles, strict=True))
        items.append(ProbeItem((she, he)))
    before = [np.array([0.0, -1.0])] * 20
    after = [np.array([0.0, -1.0 if i < 12 else 1.0]) for i in range(20)]
    change = probe_measures({"x": items}, {"x": after}, {"x": before})["x"][ALL].change
    assert (change.towards, change.away, change.p) == (4, 4, 1.0)
    assert change.people.to == {"he": 8, "she": 0}
    assert change.people.items == 12 * "." + 8 * "h"
    assert change.people.p == pytest.approx(binomtest(8, 8).pvalue, abs=1e-6)
    assert change.people.p_holm == pytest.approx(2 * change.people.p, abs=1e-5)
    pairs = {"x": _pairs(20)}
    same, other = {"x": _scores([True] * 20)}, {"x": _scores([False] * 20)}
    assert probe_measures(pairs, same, other)["x"][ALL].change.people is None


def _question(condition: str, right: int) -> ProbeItem:
    return ProbeItem(LONG, {"about": "age"}, "Who?", "", right, condition)


def test_answers_are_compared_by_nats_a_byte_and_judged() -> None:
    items = [_question(AMBIGUOUS, 2) for _ in range(12)]
    items += [_question(DISAMBIGUATED, i % 2) for i in range(12)]
    # By the sum the short answer would win each time; by the byte the long one does.
    unknown = np.array([-4.0, -8.0, -9.0])
    stereotype = np.array([-1.0, -8.0, -32.0])
    scores = [*[unknown] * 8, *[stereotype] * 4, *[stereotype] * 10, *[unknown] * 2]
    said = probe_measures({"q": items}, {"q": scores})["q"][ALL]
    assert said.unknown == 10
    open_ones, told = said.ambiguous, said.disambiguated
    assert open_ones.accuracy.right == 8
    assert open_ones.accuracy.p == pytest.approx(binomtest(8, 12, 1 / 3).pvalue, abs=1e-6)
    assert told.accuracy.right == 5


def test_chance_is_that_of_all_items_whatever_their_order() -> None:
    two = ProbeItem(LONG[:2], {}, "Who?", "", 0, DISAMBIGUATED)
    items = [two] * 6 + [_question(DISAMBIGUATED, 0)] * 6
    scores = [np.array([-1.0, -90.0, -90.0])[: len(x.sides)] for x in items]
    found = [
        probe_measures({"q": some}, {"q": values})["q"][ALL].disambiguated.accuracy.p
        for some, values in ((items, scores), (items[::-1], scores[::-1]))
    ]
    assert found[0] == found[1] == pytest.approx(binomtest(12, 12, 5 / 12).pvalue, abs=1e-6)


def test_leaving_it_open_is_a_step_and_not_a_direction_of_its_own() -> None:
    items = [_question(AMBIGUOUS, 2) for _ in range(10)]
    follow, leave = np.array([-1.0, -9.0, -90.0]), np.array([-9.0, -90.0, -1.0])
    before, after = {"q": [leave] * 10}, {"q": [follow] * 10}
    change = probe_measures({"q": items}, after, before)["q"][ALL].change
    assert (change.towards, change.away) == (10, 0)
