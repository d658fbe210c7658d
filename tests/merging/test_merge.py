"""Merge from end to end on small synthetic adapters: what the result may and may not depend on."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from hydraopt import open_bundle, read_adapters, verify_bundle
from hydraopt.codec import FORMS, Measure
from hydraopt.codec.costs import MEASURES
from hydraopt.errors import BudgetError, NumericalError, UsageError
from hydraopt.merging import Look, merge, solving
from hydraopt.merging.job import Solution
from hydraopt.merging.limits import parse_size
from hydraopt.merging.options import DEFAULT_MAX_ERROR
from tests.marks import slow
from tests.merging.merge_cases import PATHS, decoded, measured, modules_of, near, originals
from tests.raising import raises

# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [None, *map(slow, FORMS)])
def test_errors_in_the_bundle_are_the_measured_ones(three, tmp_path, form) -> None:
    result = merge(three, tmp_path / "out", size="20%", forms=[form] if form else None, workers=1)
    got, wanted = decoded(tmp_path / "out"), originals(three)
    for name, error in result.errors.items():
        assert error == pytest.approx(measured(got[name], wanted[name]), rel=1e-3)
    report = verify_bundle(tmp_path / "out", read_adapters(three))
    assert report.ok, report.problems


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("limit", [slow(0.5), 0.1, slow(1e-3)])
def test_an_error_limit_is_kept_and_used(three, tmp_path, measure, limit) -> None:
    merge(three, tmp_path / "out", error=limit, measure=measure, workers=1)
    got, wanted = decoded(tmp_path / "out"), originals(three)
    mean = np.mean([measured(got[name], wanted[name]) for name in wanted])
    assert 0.9 * limit <= mean <= limit * (1 + 1e-6)


def test_a_merge_without_a_limit_limits_the_worst_error(three, tmp_path) -> None:
    made = merge(three, tmp_path / "out", workers=1)
    got, wanted = decoded(tmp_path / "out"), originals(three)
    worst = max(measured(got[name], wanted[name]) for name in wanted)
    assert 0.9 * DEFAULT_MAX_ERROR <= worst <= DEFAULT_MAX_ERROR * (1 + 1e-6)
    assert made.notes == ()
    merge(three, tmp_path / "same", max_error=DEFAULT_MAX_ERROR, workers=1)
    assert (tmp_path / "same").read_bytes() == (tmp_path / "out").read_bytes()


def test_what_adapters_have_in_common_counts_once(make_adapter, tmp_path) -> None:
    one = modules_of(0, m=96, n=128, r=8)
    folders = [make_adapter(tmp_path / f"t{i}", near(one, i)) for i in range(10)]
    alone = merge(folders[:1], tmp_path / "one", workers=1)
    ten = merge(folders, tmp_path / "ten", workers=1)
    # Nothing in the default's figure holds the bytes up where one pays for all.
    assert ten.size < 2.5 * alone.size
    assert ten.fraction < 0.1 < alone.fraction


@pytest.mark.parametrize("limit", [{"max_error": 0.1}, {"error": 0.02}, slow({})], ids=str)
@pytest.mark.parametrize("importance", [slow({}), {"a": 25.0}], ids=str)
def test_the_first_pass_of_an_error_limit_is_near(
    three, tmp_path, make_adapter, monkeypatch, limit, importance
) -> None:
    found = []

    def one_pass(run, budget, start):
        trial = run(start, 1)
        found.append(trial.value / budget.limit)
        return Solution(trial.draft, 1)

    monkeypatch.setattr(solving, "search_error", one_pass)
    # Errors far from each other: another norm, another rank, another weight.
    loud = {path: (30 * b, a) for path, (b, a) in modules_of(7).items()}
    uneven = [*three, make_adapter(tmp_path / "loud", loud)]
    uneven.append(make_adapter(tmp_path / "full", modules_of(9, r=16)))
    merge(uneven, tmp_path / "out", importance=importance, workers=1, **limit)
    assert 0.8 < found[0] < 1.25


def test_fair_brings_the_tasks_together(three, tmp_path, make_adapter) -> None:
    # A task of four times the rank is harder to keep.
    uneven = [*three[:2], make_adapter(tmp_path / "full", modules_of(9, r=16))]

    def errors(fair: bool) -> list[float]:
        return list(
            merge(uneven, tmp_path / "out", size="15%", fair=fair, workers=1).errors.values()
        )

    plain, fair = errors(False), errors(True)
    assert max(fair) / min(fair) < 0.8 * max(plain) / min(plain)
    assert max(fair) < max(plain)


def test_fair_leaves_out_an_adapter_that_changes_nothing(three, tmp_path, make_adapter) -> None:
    """As PEFT begins them: B is zero, and no price gives it an error."""
    idle = {path: (0 * b, a) for path, (b, a) in modules_of(7).items()}
    folders = [*three, make_adapter(tmp_path / "idle", idle)]
    made = {
        fair: merge(folders, tmp_path / "out", size="20%", fair=fair, workers=1)
        for fair in (False, True)
    }
    limit = 0.2 * made[True].size / made[True].fraction
    assert made[True].size > 0.97 * limit
    assert made[True].passes < 10
    assert max(made[True].errors.values()) < 1.1 * max(made[False].errors.values())


def test_importance_lowers_an_error(three, tmp_path) -> None:
    even = merge(three, tmp_path / "out", size="25%", workers=1).errors
    more = merge(three, tmp_path / "out", size="25%", importance={"b": 20.0}, workers=1).errors
    assert more["b"] < 0.8 * even["b"]
    assert more["a"] > even["a"]


def test_absolute_errors_count_more_where_the_adapter_is_large(make_adapter, tmp_path) -> None:
    small, other = modules_of(1), modules_of(2)
    large = {path: (8 * b, a) for path, (b, a) in other.items()}
    folders = [make_adapter(tmp_path / "small", small), make_adapter(tmp_path / "large", large)]

    def errors(measure: str | Measure) -> dict[str, float]:
        merge(folders, tmp_path / "out", size="25%", measure=measure, workers=1)
        got, wanted = decoded(tmp_path / "out"), originals(folders)
        return {name: measured(got[name], wanted[name]) for name in wanted}

    absolute = dataclasses.replace(
        MEASURES["bias-aware"], name="absolute", relative=0, farthest=math.inf
    )
    relative, absolute, between = map(errors, ("frobenius", absolute, "bias-aware"))
    assert relative["large"] == pytest.approx(relative["small"], rel=0.3)
    assert absolute["large"] < 0.5 * relative["large"]
    # The default favours the larger one, and yet gives up none.
    assert between["large"] < between["small"] < 0.9 < absolute["small"]


def test_sensitivity_lowers_the_error_of_a_module(three, tmp_path) -> None:
    def errors(sensitivity) -> dict[str, float]:
        merge(three, tmp_path / "out", size="25%", look=Look(sensitivity=sensitivity), workers=1)
        wanted = originals(three)["b"]
        return {
            path: measured({path: got}, {path: wanted[path]})
            for path, got in decoded(tmp_path / "out")["b"].items()
        }

    even = errors({"b": dict.fromkeys(PATHS, 1.0)})
    more = errors({"b": {path: 10.0 if path == "h.1.q" else 1.0 for path in PATHS}})
    assert more["h.1.q"] < 0.8 * even["h.1.q"]
    assert all(more[path] > even[path] for path in PATHS if path != "h.1.q")
    # Only ratios count.
    assert errors({"b": dict.fromkeys(PATHS, 7.0)}) == pytest.approx(even, rel=1e-6)


@pytest.mark.parametrize(
    ("sensitivity", "facts"),
    [
        ({"z": {}}, {"got": "z"}),
        ({"b": dict.fromkeys(PATHS[1:], 1.0)}, {"module": "h.0.q", "got": "nothing"}),
        ({"b": dict.fromkeys(PATHS, -1.0)}, {"module": "h.0.q", "got": "-1.0"}),
        ({"b": dict.fromkeys(PATHS, float("nan"))}, {"module": "h.0.q", "got": "nan"}),
    ],
)
def test_wrong_sensitivity_is_refused(three, tmp_path, sensitivity, facts) -> None:
    with raises(UsageError, **facts):
        merge(three, tmp_path / "out", size="25%", look=Look(sensitivity=sensitivity))
    assert not (tmp_path / "out").exists()


# --- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["frobenius", *(slow(x) for x in MEASURES if x != "frobenius")])
@pytest.mark.parametrize("size", ["8%", "20%", 6000, "0.012MB", "100%"])
def test_a_size_is_never_exceeded_and_used(three, tmp_path, size, measure) -> None:
    result = merge(three, tmp_path / "out", size=size, measure=measure, workers=1)
    limit = parse_size(size, result.fp16_bytes)
    real = (tmp_path / "out").stat().st_size
    assert result.size == real <= limit
    assert real >= limit - max(0.01 * limit, 4096)
    assert result.fraction == real / result.fp16_bytes


def test_fp16_bytes_count_every_number(three, tmp_path, make_adapter) -> None:
    head = {"base_model.model.head.weight": np.ones((5, 7), np.float32)}
    one = make_adapter(tmp_path / "head", modules_of(0), extras=head)
    result = merge([one], tmp_path / "out", size="50%", workers=1)
    assert result.fp16_bytes == 2 * (4 * 4 * (48 + 64) + 35)


def test_less_than_what_is_carried_is_refused_and_nothing_is_written(
    make_adapter, tmp_path
) -> None:
    head = np.random.default_rng(0).standard_normal((200, 50)).astype(np.float32)
    one = make_adapter(
        tmp_path / "head", modules_of(0), extras={"base_model.model.head.weight": head}
    )
    target = tmp_path / "out"
    with raises(BudgetError, got="--exact"):
        merge([one], target, size=20_000, workers=1, exact=["*.head.*"])
    assert not target.exists()
    target.write_bytes(b"old")
    with pytest.raises(BudgetError):
        merge([one], target, size=200, workers=1, exact=["*.head.*"])
    assert target.read_bytes() == b"old"
    assert sorted(x.name for x in tmp_path.iterdir()) == ["head", "out"]


@pytest.mark.parametrize(
    "option",
    [
        {"fair": True},
        {"importance": {"a": 2}},
        {"forms": ["private"]},
        {"measure": "frobenius"},
        {"look": Look(refit=lambda name, modules: {})},
    ],
)
def test_lossless_takes_no_choices(three, tmp_path, option) -> None:
    with pytest.raises(UsageError):
        merge(three, tmp_path / "out", lossless=True, **option)
    assert not (tmp_path / "out").exists()


def test_two_limits_are_refused(three, tmp_path) -> None:
    with raises(UsageError, got="size, error"):
        merge(three, tmp_path / "out", size="5%", error=0.1)


def test_an_importance_for_nobody(three, tmp_path) -> None:
    with raises(UsageError, got="z"):
        merge(three, tmp_path / "out", importance={"z": 2.0})


def test_an_unknown_form_is_refused(three, tmp_path) -> None:
    with raises(UsageError, got="privat", expected="shared-input"):
        merge(three, tmp_path / "out", forms=["privat"])


# --- symmetries ----------------------------------------------------------------------------------


def test_the_order_of_adapters_does_not_change_a_byte(three, tmp_path) -> None:
    for name, order in (("one", three), ("other", three[1:] + three[:1])):
        merge(order, tmp_path / name, error=0.2, workers=1)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("form", [None, *map(slow, FORMS)])
def test_the_gauge_changes_nothing_that_counts(make_adapter, tmp_path, form) -> None:
    rng = np.random.default_rng(8)
    plain, turned = [], []
    for i in range(3):
        modules = modules_of(i)
        other = {}
        for path, (b, a) in modules.items():
            R = rng.standard_normal((4, 4)) + 2 * np.eye(4)
            other[path] = (b @ R, np.linalg.solve(R, a))
        plain.append(make_adapter(tmp_path / "plain" / str(i), modules))
        turned.append(make_adapter(tmp_path / "turned" / str(i), other))
    forms = [form] if form else None
    one = merge(plain, tmp_path / "one", error=0.1, forms=forms, workers=1)
    two = merge(turned, tmp_path / "two", error=0.1, forms=forms, workers=1)
    assert one.size == pytest.approx(two.size, rel=0.01)
    a, b = decoded(tmp_path / "one"), decoded(tmp_path / "two")
    for name in a:
        assert measured(b[name], a[name]) < 0.2 * 0.1


# --- named cases ---------------------------------------------------------------------------------


def test_lossless_is_bit_for_bit(make_adapter, tmp_path) -> None:
    head = {
        "base_model.model.head.weight": np.random.default_rng(0)
        .standard_normal((3, 9))
        .astype(np.float16)
    }
    folders = [
        make_adapter(tmp_path / "a", modules_of(0), alpha=7, extras=head, use_rslora=True),
        make_adapter(tmp_path / "b", modules_of(1), dtype=np.float16),
    ]
    result = merge(folders, tmp_path / "out", lossless=True)
    assert result.errors == {"a": 0.0, "b": 0.0}
    bundle = open_bundle(tmp_path / "out")
    for folder in folders:
        tensors = load_file(folder / "adapter_model.safetensors")
        task = bundle[folder.name]
        assert set(task.tensors) == set(tensors)
        for key, value in tensors.items():
            assert task.tensors[key].raw() == value.tobytes()
        task.save_pretrained(tmp_path / "back" / folder.name)
        again = load_file(tmp_path / "back" / folder.name / "adapter_model.safetensors")
        assert {key: x.tobytes() for key, x in again.items()} == {
            key: x.tobytes() for key, x in tensors.items()
        }


def test_one_task_reads_only_its_own_bytes(three, tmp_path) -> None:
    merge(three, tmp_path / "out", size="30%", workers=1)
    bundle = open_bundle(tmp_path / "out")
    before = bundle.bytes_read
    bundle["b"].factors()
    sizes = bundle.tensor_bytes
    content = bundle["b"].entry.content
    assert bundle.bytes_read - before == sizes["shared"] + sizes[f"task/{content}"]


def test_progress_is_told(three, tmp_path) -> None:
    told = []
    merge(three, tmp_path / "out", size="30%", workers=2, progress=lambda *x: told.append(x))
    assert all(0 < done <= total == len(PATHS) for _, done, total in told)
    assert {stage for stage, _, _ in told} >= {"reading", "pass 1"}


@pytest.mark.slow
@pytest.mark.parametrize("size", ["2%", "10%"])
def test_a_size_takes_two_passes(tmp_path, size) -> None:
    examples = Path(__file__).resolve().parents[2] / "examples" / "adapters"
    result = merge(
        [examples / name for name in ("dates-de", "numbers-fr")], tmp_path / "out", size=size
    )
    assert result.passes <= 2


@pytest.mark.slow
def test_streams_that_no_reader_would_take_are_not_written(three, tmp_path, monkeypatch) -> None:
    # Real weights stand for fewer numbers per byte than the format allows.
    monkeypatch.setattr("hydraopt.codec.stream.MOST_NUMBERS_OF_FILE", (0, 1))
    with pytest.raises(NumericalError):
        merge(three, tmp_path / "out", size="10%", workers=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scale", [1e34, 1e-42])
def test_weights_out_of_range_name_adapter_and_module(make_adapter, tmp_path, scale) -> None:
    odd = {path: (a * scale, b * scale) for path, (a, b) in modules_of(1).items()}
    named = [make_adapter(tmp_path / "plain", modules_of(0)), make_adapter(tmp_path / "odd", odd)]
    with raises(NumericalError, adapter="odd", module="h.0.q"):
        merge(named, tmp_path / "out", error=0.1, workers=1)
    assert not (tmp_path / "out").exists()
