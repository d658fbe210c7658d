"""BD-rate: a constant factor of the bytes is that factor, whatever the curve."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quality.sets import pinned
from benchmarks.reports.bdrate import bd_rate, every_rate, frontier, pairings, rates
from tests.benchmarks.reports.test_rival_table import scored

CURVE = [(2.0, 0.1), (5.0, 0.011), (10.0, 0.002), (20.0, 0.0003)]


def times(factor: float) -> list[tuple[float, float]]:
    return [(factor * size, kl) for size, kl in CURVE]


@given(st.floats(0.05, 20))
def test_a_constant_factor_is_that_factor(factor: float) -> None:
    rate = bd_rate(times(factor), CURVE)
    assert rate is not None
    assert rate.percent == pytest.approx(100 * (factor - 1), abs=1e-9)
    assert rate.times == pytest.approx(1 / factor)
    assert (rate.low, rate.high) == (0.0003, 0.1)


def test_the_other_way_round_is_the_inverse() -> None:
    other = [(3.0, 0.2), (9.0, 0.01), (40.0, 0.0001)]
    there, back = bd_rate(CURVE, other), bd_rate(other, CURVE)
    assert there is not None
    assert back is not None
    assert there.times * back.times == pytest.approx(1)
    assert there.percent < 0 < back.percent


def test_two_power_laws_over_the_kl_that_both_reach() -> None:
    """bytes = 2 / KL against 1 / KL ** 2: at KL k the ratio is 2 k, its log's mean that in the
    middle of log KL, which runs from 0.01 to 1."""
    one = [(2 / kl, kl) for kl in (10.0, 1.0, 0.1, 0.01)]
    two = [(1 / kl**2, kl) for kl in (1.0, 0.01, 0.001)]
    rate = bd_rate(one, two)
    assert rate is not None
    assert (rate.low, rate.high) == (0.01, 1.0)
    assert 1 + rate.percent / 100 == pytest.approx(2 * 0.1)


def test_points_that_are_larger_and_no_nearer_do_not_count() -> None:
    assert frontier([(5, 0.1), (2, 0.3), (7, 0.1), (6, 0.5)]) == [(2, 0.3), (5, 0.1)]
    worse = [*CURVE, (30.0, 0.01), (4.0, 0.2)]
    assert bd_rate(worse, CURVE) == bd_rate(CURVE, CURVE)
    # What is less than results can tell is the least that they tell.
    assert frontier([(5, 1e-9), (6, 0.0)]) == [(5, 1e-6)]


def test_a_method_of_one_size_is_compared_at_its_kl() -> None:
    rate = bd_rate(CURVE, [(30.0, 0.002)])
    assert rate is not None
    assert rate.low == rate.high == 0.002
    assert rate.times == pytest.approx(3)
    assert bd_rate([(30.0, 0.002)], CURVE).percent == pytest.approx(200)
    between = bd_rate(CURVE, [(30.0, math.sqrt(0.011 * 0.002))])
    assert 30 / 10 < between.times < 30 / 5


def test_no_kl_in_common_is_no_rate() -> None:
    assert bd_rate(CURVE, [(50.0, 0.2), (60.0, 0.11)]) is None
    assert bd_rate(CURVE, [(50.0, 0.2)]) is None
    assert bd_rate(CURVE, []) is None


def test_ours_is_compared_with_rivals_and_its_other_ways_with_it() -> None:
    rows = [
        {"method": method, "size_pct": factor * size, "kl": kl}
        for method, factor in (("hydraopt", 1), ("hydraopt-curves", 0.5), ("svd", 4))
        for size, kl in CURVE
    ]
    found = {(x.method, x.other): (x.sizes, x.rate) for x in pairings(rows)}
    assert found["hydraopt", "svd"][1].percent == pytest.approx(-75)
    assert found["hydraopt-curves", "hydraopt"][1].percent == pytest.approx(-50)
    assert {sizes for sizes, _ in found.values()} == {4}
    assert pairings([row for row in rows if row["method"] != "hydraopt"]) == []


def test_the_table_has_rows_that_were_scored_alike(tmp_path) -> None:
    """Of one set, with as many test rows; and of no method that is neither a rival nor ours."""
    assert rates(tmp_path) == "Not measured yet.\n"
    kls = {"hydraopt 2%": 0.1, "hydraopt 8%": 0.001, "other 8%": 0.1, "other 32%": 0.001}

    def save(plan: str, rows: int, kls: dict[str, float]) -> None:
        methods = {
            label: {
                "method": label.partition(" ")[0],
                "setting": label.partition(" ")[2],
                "bytes": 1000,
                "size_pct": float(label.partition(" ")[2].rstrip("%")),
                "errors": {"a": 0.5},
            }
            for label in kls
        }
        result = {
            "set": "gemma3-5x8",
            "adapters": pinned()["gemma3-5x8"][1],
            "plan": plan,
            "limits": {"rows": rows},
            "methods": methods,
            "tasks": [scored(kls)],
        }
        (tmp_path / f"gemma3-5x8.{plan}.json").write_text(json.dumps(result))

    save("rivals", 24, {**kls, "poor 5%": 0.9})
    save("harm", 300, {"hydraopt 2%": 0.1, "hydraopt 8%": 0.001, "hydraopt-refit 2%": 0.001})
    save("choices", 300, {"only-private 2%": 0.001})
    assert "| other | 4.0 |" in rates(tmp_path)
    assert "poor" in rates(tmp_path).split("|")[-1]
    found = {(row[3], row[5]): row for row in every_rate(tmp_path)[1]}
    assert found["hydraopt", "other"][6:] == [2, "0.001", "0.1", "-75", "4.0"]
    assert found["hydraopt-refit", "hydraopt"][6:] == [2, "0.001", "0.001", "-75", "4.0"]
    assert found["hydraopt", "poor"][6:] == [1, "", "", "", ""]
    assert found.keys() == {("hydraopt", x) for x in ("other", "poor")} | {
        ("hydraopt-refit", "hydraopt")
    }


def _result(plan: str, methods: dict[str, dict], tasks: dict[str, dict[str, float]]) -> dict:
    """methods: their options by label, "NAME SIZE%". tasks: KL by adapter and label."""
    about = {"bytes": 1000, "errors": dict.fromkeys("abcd", 0.5)}
    noted = {}
    for label, options in methods.items():
        method, _, size = label.partition(" ")
        place = {"method": method, "setting": size, "size_pct": float(size.rstrip("%"))}
        noted[label] = {**about, **place, "options": options}
    return {
        "set": "gemma3-5x8",
        "adapters": pinned()["gemma3-5x8"][1],
        "plan": plan,
        "limits": {"rows": 300},
        "methods": noted,
        "tasks": [{**scored(kls), "adapter": name} for name, kls in tasks.items()],
    }


def test_curves_of_other_prompts_stand_apart(tmp_path) -> None:
    few = {"judge": {"split": "validation", "count": 24}}
    many = {"judge": {"split": "validation", "count": 64}}
    taught = {"judge": {**few["judge"], "learned": 300}}
    methods = {
        "hydraopt 2%": {},
        "hydraopt 8%": {},
        "hydraopt-curves 2%": few,
        "hydraopt-curves 4%": many,
        "hydraopt-refit 4%": taught,
    }
    kls = dict(zip(methods, (0.1, 0.001, 0.05, 0.001, 0.001), strict=True))
    result = _result("harm", methods, {"a": kls})
    (tmp_path / "gemma3-5x8.harm.json").write_text(json.dumps(result))
    few_told, many_told = "24 validation prompts a task", "64 validation prompts a task"
    found = {(row[3], row[4]): row[6:8] for row in every_rate(tmp_path)[1]}
    assert found == {
        ("hydraopt-curves", few_told): [2, "0.05"],
        ("hydraopt-curves", many_told): [2, "0.001"],
        ("hydraopt-refit", f"{few_told}, 300 training rows learned"): [2, "0.001"],
    }


def test_curves_of_other_tasks_stand_apart(tmp_path) -> None:
    """Though they are as many."""
    for plan, names, kl in (("harm", "ab", 0.001), ("curves", "cd", 0.002)):
        kls = {"hydraopt 2%": 0.1, "hydraopt 8%": 0.001, f"hydraopt-{plan} 8%": kl}
        kls = {x.replace("-harm", "-refit"): value for x, value in kls.items()}
        result = _result(plan, {label: {} for label in kls}, dict.fromkeys(names, kls))
        (tmp_path / f"gemma3-5x8.{plan}.json").write_text(json.dumps(result))
    methods = [row[3] for row in every_rate(tmp_path)[1]]
    assert sorted(methods) == ["hydraopt-curves", "hydraopt-refit"]
    assert {row[1] for row in every_rate(tmp_path)[1]} == {2}
