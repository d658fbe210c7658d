"""The reports of inspect: their shape, what adds up, how good the guess is, and the pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt.bundle import is_bundle, open_bundle
from hydraopt.errors import AdapterFormatError, BundleFormatError, UsageError
from hydraopt.files import to_json
from hydraopt.inspect import AdaptersReport, inspect_adapters, inspect_bundle
from hydraopt.merging import Plan, merge, remove
from hydraopt.merging.job import TaskTrial
from hydraopt.merging.pipeline import PlannedTask
from hydraopt.report import check_plot, draw
from hydraopt.report.figures import figure_of
from tests.conftest import MakeAdapter
from tests.drawn import drawn_modules
from tests.raising import raises

PATHS = [f"h.{i // 2}.{'qv'[i % 2]}" for i in range(6)]
Pairs = dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def _modules(seed: int, start: float, rank: int = 4, paths: list[str] = PATHS) -> Pairs:
    """Factors whose A's begin alike: start is the share of the common part."""
    common = np.random.default_rng(0).standard_normal((len(paths), rank, 60))
    rng = np.random.default_rng(seed)
    return {
        path: (
            rng.standard_normal((70, rank)) * 2.0 ** -np.arange(rank),
            start * common[i] + (1 - start) * rng.standard_normal((rank, 60)),
        )
        for i, path in enumerate(paths)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_adapter: MakeAdapter) -> Path:
    """Six adapters; "copy" equals "t1", "zero" does nothing, "less" lacks two modules."""
    folder = tmp_path_factory.mktemp("adapters")
    for i in (1, 2, 3):
        make_adapter(folder / f"t{i}", _modules(i, 0.8))
    make_adapter(folder / "copy", _modules(1, 0.8))
    make_adapter(folder / "less", _modules(5, 0.8, rank=2, paths=PATHS[:4]))
    nothing = {path: (0 * b, a) for path, (b, a) in _modules(6, 0.8).items()}
    make_adapter(folder / "zero", nothing)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> AdaptersReport:
    return inspect_adapters(folder / "*")


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "six.hydra.safetensors"
    merge(folder / "*", path, size="30%", workers=1)
    return path


@pytest.mark.slow
def test_adapters_report_has_the_traced_starts(tmp_path: Path, make_adapter: MakeAdapter) -> None:
    modules = drawn_modules(42)
    make_adapter(tmp_path / "some", {**modules, "layers.9.q_proj": modules["layers.1.q_proj"]})
    make_adapter(tmp_path / "none", _modules(1, 0.8, paths=["h.0.x"]))
    report = inspect_adapters([tmp_path / "some", tmp_path / "none"])
    starts = {x.name: (x.start_seed, x.traced_modules, x.modules) for x in report.tasks}
    assert starts == {"some": (42, 4, 5), "none": (None, 0, 1)}


def test_adapters_report_is_json(report: AdaptersReport) -> None:
    document = to_json(report)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert set(document) == {
        "schema",
        "base_model",
        "fp16_bytes",
        "measure",
        "tasks",
        "likeness",
        "types",
        "modules",
        "curve",
        "guesses",
        "notes",
    }


def test_tasks_of_adapters(report: AdaptersReport) -> None:
    tasks = {row.name: row for row in report.tasks}
    assert tasks["copy"].same_as == ("t1",)
    assert tasks["less"].ranks == (2,)
    assert tasks["less"].modules == 4
    assert tasks["zero"].norm == 0
    assert sum(row.fp16_bytes for row in tasks.values()) == report.fp16_bytes


def test_likeness_of_whole_adapters(report: AdaptersReport) -> None:
    names = report.likeness.tasks
    products, a = report.likeness.products, report.likeness.a
    at = {name: i for i, name in enumerate(names)}
    assert products[at["t1"]][at["copy"]] == pytest.approx(1)
    assert products[at["t1"]][at["zero"]] is None
    assert a[at["t1"]][at["less"]] is None  # ranks differ
    assert a[at["t1"]][at["t2"]] > 0.85
    assert abs(products[at["t1"]][at["t2"]]) < 0.3


def test_modules_of_adapters(report: AdaptersReport) -> None:
    rows = {row.path: row for row in report.modules}
    assert list(rows) == sorted(PATHS)
    assert "less" not in rows["h.2.v"].tasks
    first = rows["h.0.q"]
    assert first.input_overlap > 0.5 > first.output_overlap
    assert sorted(first.ranks) == [0, 2, 4, 4, 4]  # contents: the copy counts once
    assert first.rank90 <= first.rank99
    assert list(first.spectrum) == sorted(first.spectrum)
    assert first.spectrum[-1] == pytest.approx(1)


def test_curve_falls_and_sharing_never_costs(report: AdaptersReport) -> None:
    curve = report.curve
    assert all(x.price < y.price for x, y in pairwise(curve))
    assert all(x.bytes > y.bytes for x, y in pairwise(curve))
    assert all(x.error < y.error for x, y in pairwise(curve))
    assert curve[0].error < 0.05
    assert curve[-1].error > 0.5
    for guess in report.guesses:
        assert guess.bytes is not None is not guess.private_bytes
        assert guess.bytes <= 1.02 * guess.private_bytes


def test_sharing_saves_where_tasks_have_one_input_side(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """One A for all, larger than the B's: storing it once saves most of the bytes."""
    rng = np.random.default_rng(2)
    a = rng.standard_normal((4, 400))
    for i in range(6):
        make_adapter(tmp_path / f"t{i}", {"h.0.q": (rng.standard_normal((60, 4)), a)})
    report = inspect_adapters(tmp_path / "*")
    (module,) = report.modules
    assert module.input_overlap == pytest.approx(1, abs=1e-4)
    (guess,) = [x for x in report.guesses if x.error == 0.1]
    assert guess.bytes is not None is not guess.private_bytes
    assert guess.bytes < 0.6 * guess.private_bytes


def test_one_adapter_and_an_adapter_of_zeros(folder: Path) -> None:
    report = inspect_adapters(folder / "t1")
    assert report.modules[0].a_cosine is None
    assert len(report.curve) > 3
    report = inspect_adapters([folder / "zero"])
    assert report.curve == ()
    assert all(guess.bytes is None for guess in report.guesses)


def test_bundle_report_adds_up(bundle: Path) -> None:
    report = inspect_bundle(bundle)
    document = to_json(report)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert sum(report.parts.values()) == report.size == bundle.stat().st_size
    tasks = {row.name: row for row in report.tasks}
    assert tasks["copy"].shared_with == ("t1",)
    own = sum(row.own_bytes for row in tasks.values()) - tasks["copy"].own_bytes
    assert own == report.parts["tasks"]
    # A stream also holds what its coder needs to end.
    by_module = sum(row.task_bytes for row in report.modules)
    assert own - 16 * len(tasks) <= by_module <= own
    bases = sum(sum(row.basis_bytes.values()) for row in report.modules)
    assert report.parts["shared"] - 32 <= bases <= report.parts["shared"]
    assert sum(row.bytes for row in report.types) == by_module + bases
    opened = open_bundle(bundle)
    for name, row in tasks.items():
        assert row.error == opened[name].error
        assert {x.path: x.error for x in row.details} == opened[name].module_errors


def test_bundle_report_with_bases(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "shared.hydra.safetensors"
    merge(folder / "t*", path, size="40%", forms=["shared-input"], workers=1)
    report = inspect_bundle(path)
    assert any(row.basis_vectors["right"] for row in report.modules)
    assert all(row.basis_vectors["left"] == 0 for row in report.modules)
    bases = sum(sum(row.basis_bytes.values()) for row in report.modules)
    assert report.parts["shared"] - 32 <= bases <= report.parts["shared"]
    assert report.tasks[0].forms == {"shared-input": 6}


def test_bundle_report_of_a_lossless_bundle(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "exact.hydra.safetensors"
    merge(folder / "t*", path, lossless=True)
    report = inspect_bundle(path)
    assert {row.error for row in report.tasks} == {0}
    assert all(row.own_bytes == 0 < row.carried_bytes for row in report.tasks)


def test_is_bundle(bundle: Path, folder: Path, tmp_path: Path) -> None:
    assert is_bundle(bundle)
    assert not is_bundle(folder / "t1")
    assert not is_bundle(folder / "t1" / "adapter_model.safetensors")
    assert not is_bundle(tmp_path / "nowhere")
    for suffix, expected in ((".hydra.safetensors", True), (".safetensors", False)):
        for data in (b"", b"\xff" * 40, bundle.read_bytes()[:20]):
            file = tmp_path / f"x{suffix}"
            file.write_bytes(data)
            assert is_bundle(file) is expected
    # A whole file that is no bundle is none, whatever its name.
    other = tmp_path / "other.hydra.safetensors"
    other.write_bytes((folder / "t1" / "adapter_model.safetensors").read_bytes())
    assert not is_bundle(other)


def test_wrong_things_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleFormatError):
        inspect_bundle(folder / "t1" / "adapter_model.safetensors")
    with raises(AdapterFormatError, file="nowhere"):
        inspect_adapters(tmp_path / "nowhere")
    with raises(UsageError, got="'feeling'", expected="frobenius, bias-aware"):
        inspect_adapters(folder / "t1", measure="feeling")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_pictures(report: AdaptersReport, tmp_path: Path, suffix: str) -> None:
    # A name that matplotlib would take for a formula.
    likeness = replace(report.likeness, tasks=("$x_{", *report.likeness.tasks[1:]))
    draw(replace(report, likeness=likeness), tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").stat().st_size > 5000


def test_modules_that_no_task_has_do_not_lower_a_mean_error(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "b"
    merge([folder / "t1", folder / "less"], path, size="20%")
    remove(path, ["t1"])
    (kind,) = {row.type for row in inspect_bundle(path).types} & {"h.*.q"}
    report = inspect_bundle(path)
    errors = [x.mean_error for x in report.modules if x.type == kind and x.tasks]
    assert 0 < len(errors) < sum(x.type == kind for x in report.modules)
    (row,) = (x for x in report.types if x.type == kind)
    assert row.mean_error == pytest.approx(np.mean(errors))


def test_pictures_refuse(tmp_path: Path) -> None:
    with raises(UsageError, file="x.gif"):
        check_plot(tmp_path / "x.gif")


def test_a_picture_has_a_folder(tmp_path: Path) -> None:
    with raises(UsageError, file="x.png", got="no none/"):
        check_plot(tmp_path / "none" / "x.png")


def _plan(counted: str, limit: str, value: float) -> Plan:
    """One task with two trials, planned beside them."""
    trials = tuple(TaskTrial(1e4 / x, 0.1, x, x, x) for x in (2e-4, 2e-3))
    task = PlannedTask("de", 1e7, 0.1, None, 1e-3, trials)
    return Plan(limit, value, counted, (task,), 10**7, 10**8, (), False)


@pytest.mark.parametrize(
    ("counted", "limit", "value", "at"),
    [("answers", "harm", 0.02, 2.0), ("nats", "harm", 0.01, 0.01), ("answers", "size", 5e3, None)],
)
def test_the_limit_of_a_plan_is_in_its_picture(counted, limit, value, at) -> None:
    """A limit on harm is a line across; that of a size is in the title."""
    figure = figure_of(_plan(counted, limit, value))
    across = [
        x for x in figure.axes[0].get_lines() if len(set(x.get_ydata())) == 1 < len(x.get_xdata())
    ]
    assert [x.get_ydata()[0] for x in across] == ([] if at is None else [pytest.approx(at)])
    assert at is not None or "5,000" in figure.get_suptitle() + _titles(figure)


def _titles(figure: Any) -> str:
    return "\n".join(axis.get_title() for axis in figure.axes)
