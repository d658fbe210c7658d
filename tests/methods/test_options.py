"""Options and weights that make no sense are told in words; those that do give finite numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from method_cases import apart, made, unrelated

from hydraopt import read_adapters
from hydraopt.adapters import Adapter
from hydraopt.errors import NumericalError, UsageError
from hydraopt.linalg.shapes import Factors
from hydraopt.methods import METHODS, Method, apply
from hydraopt.methods.hydra import check_counts, fit_exact
from hydraopt.methods.options import OPTIONS

ROWS = pytest.mark.parametrize("row", METHODS.values(), ids=list(METHODS))
PER_TASK = {"weights", "inner_scales"}
HUGE = 10**5000  # of more digits than Python prints
NO_NUMBERS: tuple[Any, ...] = ("3", [1], 1j, np.ones(2), True, np.bool_(True))
WRONG: dict[str, tuple[Any, ...]] = {
    "int": (*NO_NUMBERS, 2.5, 2.0, np.float64(2), math.nan, math.inf, -1, HUGE, -HUGE),
    "float": (*NO_NUMBERS, math.nan, math.inf, -math.inf, HUGE, -HUGE),
    "bool": ("true", 1, 0.0, None, [True]),
}


def tasks_for(row: Method) -> list[Factors]:
    return unrelated(0, 2 if row.name == "slerp" else 3)


def quick(row: Method) -> dict[str, Any]:
    return {"steps": 3} if row.name == "hydraopt-gradient" else {}


@pytest.fixture
def three(make_adapter: Callable[..., Path], tmp_path: Path) -> list[Adapter]:
    folders = [
        make_adapter(tmp_path / name, {"h.0.q": (f.B, f.A), "h.1.v": (f.B, f.A)})
        for name, f in zip(("de", "es", "fr"), unrelated(1), strict=True)
    ]
    return read_adapters(folders)


@ROWS
def test_every_option_has_limits_and_a_default_within(row: Method) -> None:
    assert set(row.defaults) - PER_TASK <= set(OPTIONS)
    row.check({name: x for name, x in row.defaults.items() if name != "weights"})


@ROWS
def test_wrong_values_are_told_in_words(row: Method) -> None:
    for name in set(row.defaults) - PER_TASK:
        label = OPTIONS[name].label or name
        for value in WRONG[OPTIONS[name].kind]:
            for call in (row.check, lambda given: row.run(tasks_for(row), **given)):
                with pytest.raises(UsageError, match=f"^{label} is .*; got .*, expected .* Leave"):
                    call({name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rate", -1, "rate is out of range; got -1, expected a finite number, above 0. Leave it"),
        ("rate", 0, "rate is out of range; got 0"),
        ("seed", -1, "seed is out of range; got -1, expected a whole number, at least 0"),
        ("seed", 2**64, "seed is out of range; got 18446744073709551616"),
        ("rank", 2.5, "rank is not a whole number; got 2.5, expected a whole number, at least 1"),
        ("rank", True, "rank is not a whole number; got True"),
        ("steps", 10**9, "steps is out of range; got 1000000000, .*at most 1000000"),
        ("heads", 0, "number of heads is out of range; got 0"),
        ("heads", 10**9, None),
    ],
)
def test_options_are_checked_before_any_adapter_is_read(
    name: str, value: Any, message: str | None, three: list[Adapter], tmp_path: Path
) -> None:
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    row = METHODS["hydraopt-gradient"]
    if message is None:
        row.check({name: value})
        return
    with pytest.raises(UsageError, match=message):
        apply(three, row.name, **{name: value})


def test_counts_of_heads_are_checked_by_themselves() -> None:
    for heads in ("2", 1.0, True, None):
        with pytest.raises(UsageError, match="number of heads is not a whole number"):
            check_counts(heads, 1, 3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"rank is not a whole number; got 1\.5"):
        check_counts(1, 1.5, 3)  # type: ignore[arg-type]


def test_texts_are_held_to_the_same_limits() -> None:
    row = METHODS["hydraopt-gradient"]
    assert row.read("rate", "1e-3") == 1e-3
    for name, text in (("rate", "-1"), ("rate", "nan"), ("rate", "1e999"), ("seed", "-1")):
        with pytest.raises(UsageError, match=f"{name} is out of range"):
            row.read(name, text)
    for name, text in (("rank", "2.5"), ("steps", "many"), ("rank", "1" * 5000)):
        with pytest.raises(UsageError, match=f"cannot read {name} of hydraopt-gradient; got "):
            row.read(name, text)


@ROWS
def test_numbers_of_numpy_are_numbers(row: Method) -> None:
    plain, numpys = quick(row), dict(quick(row))
    for name, kind, value in (("rank", np.int16, 2), ("seed", np.uint64, 3), ("lam", np.half, 1)):
        if name in row.defaults:
            plain[name], numpys[name] = value, kind(value)
    once, again = row.run(tasks_for(row), **plain), row.run(tasks_for(row), **numpys)
    assert np.array_equal(made(once), made(again))


@ROWS
def test_legal_extremes_give_finite_results(row: Method) -> None:
    extremes: dict[str, tuple[Any, ...]] = {
        "rank": (10**9,),
        "block": (1, 10**9),
        "clusters": (10**9,),
        "seed": (2**63, 2**64 - 1),
        "lam": (0, 10**30, -1e150, 1e200, 1e-308),
        "density": (1e-308, 1),
        "rate": (1e-308, 1e3),
        "steps": (0, 1),
    }
    for name in sorted(extremes.keys() & row.defaults.keys()):
        for value in extremes[name]:
            given = quick(row) | {name: value}
            if row.name == "della" and name == "density":
                given["epsilon"] = 0
            merged = row.run(tasks_for(row), **given)
            assert np.isfinite(made(merged)).all(), (name, value)
            assert math.isfinite(merged.added), (name, value)


@pytest.mark.parametrize("name", ["task-arithmetic", "ties"])
@pytest.mark.parametrize("lam", [2.0**600, 2.0**-600])
def test_the_cost_of_a_cut_does_not_depend_on_the_scale(name: str, lam: float) -> None:
    plain, scaled = (METHODS[name].run(unrelated(0), lam=x, rank=2) for x in (1.0, lam))
    assert plain.added > 0.1
    assert scaled.added == pytest.approx(plain.added, rel=1e-9)
    assert apart(made(scaled) / lam, made(plain)) < 1e-12


# --- weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["hydraopt", "average"])
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, pytest.param(HUGE, id="huge"), "3", True, None, 1j, [1.0]]
)
def test_a_wrong_weight_names_its_adapter(method: str, value: Any, three: list[Adapter]) -> None:
    given: Any
    for given in ([1.0, value, 1.0], {"fr": 1.0, "de": 2, "es": value}):
        with pytest.raises(UsageError, match=r"a weight is out of range \[adapter es\]; got "):
            apply(three, method, weights=given)


def test_only_errors_want_positive_weights(three: list[Adapter]) -> None:
    for weight in (0, -1.0):
        with pytest.raises(UsageError, match=r"\[adapter de\]; got .*, above 0\. Weights near 1"):
            apply(three, "hydraopt", weights=[weight, 1.0, 1.0])
        apply(three, "average", weights=[weight, 1.0, 1.0])
    with pytest.raises(UsageError, match="weights do not fit; got 5"):
        apply(three, "average", weights=5)  # type: ignore[arg-type]


@ROWS
def test_wrong_weights_of_factors_are_refused(row: Method) -> None:
    for name in PER_TASK & set(row.defaults):
        for value in ("3", None, 1j, True, [1.0], math.nan, HUGE):
            with pytest.raises(UsageError, match=r"do not fit the tasks; got .* 3 finite"):
                row.run(tasks_for(row), **{name: [1.0, value, 1.0]})
        with pytest.raises(UsageError, match=r"do not fit the tasks; got 1\.5"):
            row.run(tasks_for(row), **{name: 1.5})


@pytest.mark.parametrize("many", [1e308, 1e-308, 5e-324])
@pytest.mark.parametrize("method", ["hydraopt", "hydraopt-gradient"])
def test_only_ratios_of_errors_weights_count(method: str, many: float) -> None:
    tasks, options = unrelated(0, 3, r=2), {"heads": 2, "rank": 2, **quick(METHODS[method])}
    plain, same = (METHODS[method].run(tasks, weights=[w] * 3, **options) for w in (1.0, many))
    for t in range(3):
        assert apart(made(same, t), made(plain, t)) < 1e-9
    one = METHODS[method].run(tasks, weights=[many, 1.0, 1e-308], **options)
    assert all(np.isfinite(made(one, t)).all() for t in range(3))


def test_the_largest_weight_wins() -> None:
    tasks = unrelated(0, 3)
    fit = fit_exact(tasks, 1, 3, [1e308, 1.0, 1e-308]).merged()
    assert apart(made(fit, 0), tasks[0].B @ tasks[0].A) < 1e-7


@ROWS
def test_what_leaves_the_range_is_told_in_words(row: Method) -> None:
    if "weights" not in row.defaults or row.weighs_errors:
        return
    with pytest.raises(NumericalError, match=r"leaves the range of float64; got weights \[1e\+308"):
        row.run(tasks_for(row), weights=[1e308] * 3)
    merged = row.run(tasks_for(row), weights=[1e-308] * 3)
    assert np.isfinite(made(merged)).all()


@ROWS
def test_factors_that_are_not_finite_are_named(row: Method) -> None:
    tasks = tasks_for(row)
    tasks[1] = Factors(tasks[1].B, np.full_like(tasks[1].A, math.inf))
    with pytest.raises(NumericalError, match="a task's factors hold NaN or infinity; got task 1"):
        row.run(tasks, **quick(row))


def test_the_module_that_leaves_the_range_is_named(three: list[Adapter]) -> None:
    with pytest.raises(NumericalError, match=r"module h\.0\.q: merging leaves.*lam 1e\+308"):
        apply(three, "ties", lam=1e308)
    with pytest.raises(NumericalError, match=r"not fit the dtype \[module h\.0\.q\].*nearer to 1"):
        apply(three, "ties", lam=1e200)
