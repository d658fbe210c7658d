"""An adapter over a core that is there: what it takes from it, and what it is refused for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hydraopt import merge, open_bundle, read_adapters, verify_bundle
from hydraopt.codec import Basis, CoreStore, Factors, modes_of, plan_module
from hydraopt.codec.costs import MEASURES
from hydraopt.errors import AlignmentError, BaseMismatchError, BudgetError, UsageError
from hydraopt.merging import Limit, Look, add, finish
from tests.conftest import write_adapter
from tests.harm.power_judge import PowerJudge
from tests.merging.merge_cases import modules_of, near
from tests.raising import raises

DAY = "2026-03-01"


def test_a_given_basis_costs_nothing_and_is_used_where_it_fits() -> None:
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((60, 12)))[0]
    inside = Factors(rng.standard_normal((40, 4)), rng.standard_normal((4, 12)) @ q.T)
    outside = Factors(rng.standard_normal((40, 4)), rng.standard_normal((4, 60)))
    for factors, shares in ((inside, True), (outside, False)):
        core = CoreStore([lambda f=factors: iter([(0, f)])]).core(0)  # type: ignore[misc]
        modes, measure = modes_of(["private", "shared-input"]), MEASURES["frobenius"]
        given = None, Basis(1.01 * q)
        plan = plan_module(core, [1.0], 1e-3, measure, modes, given)
        alone = plan_module(core, [1.0], 1e-3, measure, modes, (None, None))
        assert (plan.tasks[0].mode.code != 0) == shares
        assert plan.bits == plan.tasks[0].bits
        assert (plan.total < 0.9 * alone.total) == shares
        assert plan.total <= alone.total


def test_what_is_like_the_others_costs_fewer_bytes_with_the_core(tmp_path: Path) -> None:
    own, base = tmp_path / "own", modules_of(0, m=96, n=128)
    for i in range(5):
        write_adapter(tmp_path / f"t{i}", near(base, i, 0.05))
    strange = write_adapter(tmp_path / "strange", modules_of(7, m=96, n=128))
    merge([tmp_path / f"t{i}" for i in range(4)], own, error=0.05)
    done = add(own, [tmp_path / "t4", strange], limit=Limit(error=0.05), day=DAY)
    alike, other = sorted(done.added, key=lambda x: x.name == "strange")
    assert alike.own_bytes < 0.7 * other.own_bytes
    assert set(alike.forms) & {"predicted", "shared-input", "shared-output", "two-sided"}


def test_one_price_for_all(merged: Path, adapters: dict[str, Path], one_file: Path) -> None:
    """A task that was merged, added again under another name, gets about the same error."""
    add(one_file, [f"again-{name}={adapters[name]}" for name in "abcd"], day=DAY)
    bundle = open_bundle(one_file)
    for name in "abcd":
        assert bundle[f"again-{name}"].error == pytest.approx(bundle[name].error, rel=0.25)


def test_a_large_adapter_is_coded_more_finely(
    one_file: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    """The size of a task is relative to that of the merge, not to its own."""
    for name, times in (("large", 1.8), ("small", 0.6)):
        write_adapter(tmp_path / name, modules_of(4), alpha=4 * times)
    add(one_file, [tmp_path / "large", tmp_path / "small"], day=DAY)
    bundle = open_bundle(one_file)
    assert bundle["large"].error < 0.8 * bundle["small"].error


def test_one_content_under_two_names_is_stored_once(
    one_file: Path, adapters: dict[str, Path]
) -> None:
    add(one_file, [f"{name}={adapters['e']}" for name in ("x", "y")], day=DAY)
    bundle = open_bundle(one_file)
    assert bundle["x"].entry.content == bundle["y"].entry.content
    assert bundle["x"].entry.carried == bundle["y"].entry.carried


def test_what_is_no_module_of_the_core_is_refused(one_file: Path, tmp_path: Path) -> None:
    before = one_file.read_bytes()
    more = write_adapter(tmp_path / "more", {**modules_of(6), "h.7.q": modules_of(6)["h.0.q"]})
    with raises(AlignmentError, adapter="more", module="h.7.q", file="four.hydra.safetensors"):
        add(one_file, [more])
    wide = write_adapter(tmp_path / "wide", modules_of(6, n=65))
    with raises(AlignmentError, adapter="wide", module="h.0.q", file="four.hydra.safetensors"):
        add(one_file, [wide])
    assert one_file.read_bytes() == before


def test_a_part_of_the_modules_is_enough(one_file: Path, tmp_path: Path) -> None:
    some = {path: pair for path, pair in modules_of(6).items() if path != "h.0.v"}
    less = write_adapter(tmp_path / "less", some)
    add(one_file, [less], day=DAY)
    assert open_bundle(one_file)["less"].entry.modules == (0, 2, 3)
    report = verify_bundle(one_file)
    assert report.ok, report.problems
    assert set(open_bundle(one_file)["less"].factors()) == set(some)


def test_tensors_that_the_core_has_not_are_carried(one_file: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    odd = {"base_model.model.other[0].weight": rng.standard_normal((20, 20)).astype(np.float32)}
    made = write_adapter(tmp_path / "odd", modules_of(6), extras=odd, modules_to_save=["other"])
    done = add(one_file, [made], day=DAY)
    assert [(x.code, x.where) for x in done.notes] == [("carried", "odd")]
    task = open_bundle(one_file)["odd"]
    assert {key: x.numpy().tobytes() for key, x in task.carried.items()} == {
        key: x.tobytes() for key, x in odd.items()
    }


def test_another_base_model_is_refused(one_file: Path, tmp_path: Path) -> None:
    other = write_adapter(tmp_path / "other", modules_of(6), base="org/large")
    with raises(BaseMismatchError, adapter="other", got="org/large", expected="org/tiny"):
        add(one_file, [other])
    add(one_file, [other], same_base=True, day=DAY)
    assert open_bundle(one_file)["other"].entry.base_model == "org/large"


@pytest.mark.parametrize("kept", ["price", "norm", "neither", "nonsense"])
def test_without_a_price_a_limit_is_needed(
    one_file: Path, adapters: dict[str, Path], kept: str
) -> None:
    from hydraopt.bundle import pack_bundle

    bundle = open_bundle(one_file)
    recipe = {k: x for k, x in bundle.recipe.items() if k not in ("price", "norm") or k == kept}
    if kept == "nonsense":
        recipe |= {"price": -1.0, "norm": True}
    manifest = dataclasses.replace(bundle.manifest, recipe=recipe)
    names = [name for name in bundle.tensor_bytes if "/" in name]
    streams = [bundle.read(name) for name in names if name.startswith("task/")]
    blobs = [bundle.read(name) for name in names if name.startswith("carried/")]
    pack_bundle(manifest, bundle.read("shared"), streams, blobs).write(one_file)
    with raises(UsageError, file="four.hydra.safetensors"):
        add(one_file, [adapters["e"]])
    add(one_file, [adapters["e"]], limit=Limit(error=0.1), day=DAY)
    assert open_bundle(one_file)["e"].error <= 0.1


def test_bundles_of_methods_stay_as_they_are(adapters: dict[str, Path], tmp_path: Path) -> None:
    from hydraopt.merging import combine

    method = tmp_path / "method"
    combine([adapters["a"]], method)
    with raises(UsageError, file="method", got="method hydraopt"):
        add(method, [adapters["e"]])


def judge_of(folder: Path) -> PowerJudge:
    return PowerJudge(read_adapters([folder]), {"e": 1.0})


def test_a_limit_on_harm_is_kept_and_told(one_file: Path, adapters: dict[str, Path]) -> None:
    look = Look(judge=judge_of(adapters["e"]))
    done = add(one_file, [adapters["e"]], limit=Limit(harm="5%"), look=look, day=DAY)
    entry = open_bundle(one_file)["e"].entry
    assert entry.harm is not None
    assert entry.harm.likely <= 0.05
    assert done.added[0].harm == entry.harm
    with pytest.raises(UsageError):
        add(one_file, [f"x={adapters['e']}"], limit=Limit(harm="5%"))


def test_a_limit_on_harm_has_prompts_of_all_before_anything_is_looked_at(
    one_file: Path, adapters: dict[str, Path]
) -> None:
    look = Look(judge_of(adapters["e"]), lambda: pytest.fail("modules were looked at"))
    with raises(UsageError, got="none of x"):
        add(one_file, [adapters["e"], f"x={adapters['e']}"], limit=Limit(harm="5%"), look=look)


def test_harm_is_measured_without_a_limit_too(one_file: Path, adapters: dict[str, Path]) -> None:
    add(one_file, [adapters["e"]], look=Look(judge=judge_of(adapters["e"])), day=DAY)
    entry = open_bundle(one_file)["e"].entry
    assert entry.harm is not None
    assert entry.harm.likely == pytest.approx(entry.error**1.2, rel=0.01)


def test_a_size_counts_what_is_told_of_harm(one_file, adapters, monkeypatch) -> None:
    seen, real = [], finish.solve_budget

    def solve(job, budget, options):
        solution = real(job, budget, options)
        seen.append((job, budget, solution.draft))
        return solution

    monkeypatch.setattr(finish, "solve_budget", solve)
    limit, look = Limit("3000"), Look(judge=judge_of(adapters["e"]))
    add(one_file, [adapters["e"]], limit=limit, look=look, day=DAY)
    harm = open_bundle(one_file)["e"].entry.harm
    assert harm is not None
    ((job, budget, draft),) = seen
    told = dataclasses.replace(job, harms={"e": harm})
    assert job.value(budget, draft) == pytest.approx(told.value(budget, draft), abs=6)


def test_nobody_looks_before_all_is_checked(one_file: Path, adapters: dict[str, Path]) -> None:
    looked: list[int] = []

    def look() -> dict[str, dict[str, float]]:
        looked.append(0)
        return {}

    for limit, name in ((Limit("3O%"), "e"), (Limit("3000"), "a")):
        with pytest.raises(UsageError):
            add(one_file, [adapters[name]], limit=limit, look=Look(sensitivity=look))
    assert not looked
    add(one_file, [adapters["e"]], limit=Limit("3000"), look=Look(sensitivity=look), day=DAY)
    assert looked == [0]


def test_sensitivity_moves_bytes_between_modules(one_file: Path, adapters: dict[str, Path]) -> None:
    seen = {"x": {path: (50.0 if path == "h.0.q" else 1.0) for path in modules_of(0)}}
    add(one_file, [f"plain={adapters['e']}"], day=DAY)
    add(one_file, [f"x={adapters['e']}"], look=Look(sensitivity=seen), day=DAY)
    bundle = open_bundle(one_file)
    assert bundle["x"].module_errors["h.0.q"] < 0.7 * bundle["plain"].module_errors["h.0.q"]


def test_a_size_that_cannot_be_kept(one_file: Path, adapters: dict[str, Path]) -> None:
    with raises(BudgetError, got="--exact"):
        add(one_file, [f"x={adapters['c']}"], limit=Limit("200"))


def test_patterns_are_a_list_and_have_a_use(tmp_path: Path) -> None:
    """The characters of a text would be patterns; what is kept whole has no use for any."""
    own = write_adapter(tmp_path / "a", modules_of(0))
    merge([own], tmp_path / "coded", error=0.2, workers=1)
    merge([own], tmp_path / "whole", lossless=True, workers=1)
    more = write_adapter(tmp_path / "b", modules_of(1))
    with raises(UsageError, got="'*bias*'"):
        add(tmp_path / "coded", [more], exact="*bias*", workers=1)
    for name, limit in (("coded", Limit(lossless=True)), ("whole", Limit())):
        with pytest.raises(UsageError):
            add(tmp_path / name, [more], exact=["*bias*"], limit=limit, workers=1)


def test_options_of_a_merge_alone_are_refused(merged: Path, adapters: dict[str, Path]) -> None:
    before = merged.read_bytes()
    with pytest.raises(TypeError, match="fair"):
        add(merged, [adapters["e"]], fair=True)  # type: ignore[call-arg]
    assert merged.read_bytes() == before
