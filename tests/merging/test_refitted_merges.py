"""Merges with a refitter: which records it may change, and what the budget leaves as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from hydraopt import merge, open_bundle, read_adapters, verify_bundle
from hydraopt.codec import FORMS, Aside, Factors, PartsRecord, Place
from hydraopt.codec.tables import EXPONENT_GRID
from hydraopt.errors import UsageError
from hydraopt.merging import Look, finish, harmlimit as reading
from hydraopt.merging.options import CodedModules
from tests.marks import slow
from tests.merging.merge_cases import decoded, measured, modules_of, originals
from tests.raising import raises

Coded = Callable[[], dict[str, Factors]]


@pytest.fixture
def three(make_adapter, tmp_path: Path) -> list[Path]:
    return [make_adapter(tmp_path / name, modules_of(i)) for i, name in enumerate("abc")]


def shifting(ask: Callable[[str, Coded], Mapping[str, np.ndarray]]):
    """Return a refitter that moves the exponents of coded parts by the steps ``ask`` returns."""

    def refit(name: str, modules: CodedModules) -> dict[str, PartsRecord]:
        shifts = ask(name, lambda: {path: x.record.factors for path, x in modules().items()})
        if not any(np.any(shift) for shift in shifts.values()):
            return {}
        records = {path: modules()[path].record for path in shifts}
        return {
            path: dataclasses.replace(record, exponents=record.exponents + shifts[path])
            for path, record in records.items()
        }

    return refit


def grow_all(steps: int, only: str = "abc"):
    """Every part of the tasks in ``only`` by so many steps."""

    def ask(name: str, coded: Coded) -> dict[str, np.ndarray]:
        if name not in only:
            return {}
        return {path: np.full(f.A.shape[0], steps) for path, f in coded().items()}

    return shifting(ask)


@pytest.mark.parametrize("form", [None, *map(slow, FORMS)])
def test_parts_grow_by_what_is_asked_and_errors_are_measured(three, tmp_path, form) -> None:
    forms = form and [form]
    plain, grown = tmp_path / "plain.hydra.safetensors", tmp_path / "grown.hydra.safetensors"
    merge(three, plain, size="60%", forms=forms, look=Look(refit=grow_all(0)))
    made = merge(three, grown, size="60%", forms=forms, look=Look(refit=grow_all(8, "ac")))
    before, after = decoded(plain), decoded(grown)
    for name, factor in (("a", 2 ** (8 / EXPONENT_GRID)), ("b", 1.0), ("c", 2 ** (8 / 32))):
        for path, factors in before[name].items():
            np.testing.assert_allclose(after[name][path].B, factor * factors.B, rtol=1e-8)
            assert np.array_equal(after[name][path].A, factors.A)
    for name, wanted in originals(three).items():
        assert made.errors[name] == pytest.approx(measured(after[name], wanted), rel=1e-3)
    assert open_bundle(grown).recipe["refit"] == 2
    assert verify_bundle(grown, read_adapters(three)).ok


def test_no_stream_is_read_but_those_that_change(three, tmp_path, monkeypatch) -> None:
    """A fleet's streams lie in a file, since they are more than memory holds."""
    reads: list[Place] = []
    read, refit = Aside.read, finish.refitted

    def counted(self: Aside, place: Place) -> bytes:
        reads.append(place)
        return read(self, place)

    def watched(*arguments: object) -> object:
        reads.clear()
        made = refit(*arguments)  # type: ignore[arg-type]
        assert len(reads) == 1
        return made

    monkeypatch.setattr(Aside, "read", counted)
    monkeypatch.setattr(finish, "refitted", watched)
    made = merge(
        three, tmp_path / "x.hydra.safetensors", error=0.2, look=Look(refit=grow_all(1, "b"))
    )
    assert [note.code for note in made.notes] == ["refit_kept"]
    assert open_bundle(made.path).recipe["refit"] == 1
    assert verify_bundle(tmp_path / "x.hydra.safetensors").ok


def test_no_answer_changes_nothing(three, tmp_path) -> None:
    for name, ask in (("none", grow_all(3, "")), ("zero", grow_all(0)), ("no", None)):
        merge(three, tmp_path / name, error=0.2, look=Look(refit=ask))
    assert (tmp_path / "none").read_bytes() == (tmp_path / "zero").read_bytes()
    none, without = (open_bundle(tmp_path / name) for name in ("none", "no"))
    for i in range(3):
        assert none.read(f"task/{i}") == without.read(f"task/{i}")
    assert "refit" not in without.recipe


def test_a_part_that_is_left_out_stays(three, tmp_path) -> None:
    def ask(name: str, coded: Coded) -> dict[str, np.ndarray]:
        return {"h.0.q": np.arange(coded()["h.0.q"].A.shape[0])}

    plain, grown = tmp_path / "plain.hydra.safetensors", tmp_path / "grown.hydra.safetensors"
    merge(three, plain, size="45%", look=Look(refit=grow_all(0)))
    merge(three, grown, size="45%", look=Look(refit=shifting(ask)))
    before, after = decoded(plain)["b"], decoded(grown)["b"]
    wanted = 2.0 ** (np.arange(before["h.0.q"].A.shape[0]) / EXPONENT_GRID)
    assert pytest.approx(before["h.0.q"].B * wanted, rel=1e-8) == after["h.0.q"].B
    assert np.array_equal(after["h.1.v"].B, before["h.1.v"].B)


def rough(names: str, steps: int):
    """Parts of these tasks by so many steps up or down in turn, of all others by one."""

    def ask(name: str, coded: Coded) -> dict[str, np.ndarray]:
        size = steps if name in names else 1
        return {path: size * (-1) ** np.arange(f.A.shape[0]) for path, f in coded().items()}

    return shifting(ask)


def changed(plain: Path, other: Path) -> set[str]:
    before, after = open_bundle(plain), open_bundle(other)
    return {
        entry.name
        for entry in before.manifest.tasks
        if before.read(f"task/{entry.content}") != after.read(f"task/{entry.content}")
    }


@pytest.mark.parametrize("limit", ["error", "max_error"])
def test_an_error_limit_is_kept_and_only_offenders_go_back(three, tmp_path, limit) -> None:
    plain, out = tmp_path / "plain.hydra.safetensors", tmp_path / "x.hydra.safetensors"
    merge(three, plain, **{limit: 0.2})
    made = merge(three, out, **{limit: 0.2}, look=Look(refit=rough("b", 12)))
    errors = list(made.errors.values())
    assert (np.mean(errors) if limit == "error" else max(errors)) <= 0.2
    assert "b" not in changed(plain, out)
    assert changed(plain, out)
    back = 3 - len(changed(plain, out))
    assert made.notes[-1].code == "refit_undone"
    assert open_bundle(out).recipe["refit"] == 3 - back


def test_for_a_mean_error_goes_back_what_grew_most_not_what_is_largest(three, tmp_path) -> None:
    plain, out = tmp_path / "plain.hydra.safetensors", tmp_path / "x.hydra.safetensors"
    limits = {"error": 0.2, "importance": {"a": 0.02}}
    before = merge(three, plain, **limits).errors
    assert before["a"] > 1.5 * before["b"]
    merge(three, out, **limits, look=Look(refit=rough("b", 12)))
    assert "b" not in changed(plain, out)
    assert "a" in changed(plain, out)


def test_if_nothing_is_kept_the_bundle_is_as_without(three, tmp_path) -> None:
    plain, out = tmp_path / "plain.hydra.safetensors", tmp_path / "x.hydra.safetensors"
    merge(three, plain, error=0.2)
    made = merge(three, out, error=0.2, look=Look(refit=rough("abc", 20)))
    assert plain.read_bytes() == out.read_bytes()
    assert [note.code for note in made.notes[-2:]] == ["refit_kept", "refit_undone"]


@pytest.mark.slow
def test_a_size_is_kept_and_what_grew_most_goes_back(three, tmp_path) -> None:
    rng = np.random.default_rng(0)

    def ask(name: str, coded: Coded) -> dict[str, np.ndarray]:
        # Wild coefficients, which take more bytes than smooth ones.
        wild = 4000 if name == "b" else 2
        return {path: rng.integers(-wild, wild, f.A.shape[0]) for path, f in coded().items()}

    plain, out = tmp_path / "plain.hydra.safetensors", tmp_path / "wild.hydra.safetensors"
    size = merge(three, plain, size="30%").size
    # Not a byte to spare beyond what the first merge took.
    limit = size + 12
    merge(three, plain, size=limit)
    made = merge(three, out, size=limit, look=Look(refit=shifting(ask)))
    assert out.stat().st_size == made.size <= limit
    assert changed(plain, out) == {"a", "c"}


def test_what_nobody_asks_for_is_not_decoded(three, tmp_path, monkeypatch) -> None:
    read = []
    original = reading.read_record
    monkeypatch.setattr(reading, "read_record", lambda *args: read.append(args) or original(*args))
    merge(three, tmp_path / "out", size="30%", look=Look(refit=grow_all(1, "b")))
    assert len(read) == 4  # one task's modules, once


def test_equal_adapters_are_asked_once(make_adapter, tmp_path) -> None:
    folders = [make_adapter(tmp_path / name, modules_of(0)) for name in ("x", "y")]
    asked = []

    def ask(name: str, coded: Coded) -> dict[str, np.ndarray]:
        asked.append(name)
        return {path: np.ones(f.A.shape[0], int) for path, f in coded().items()}

    out = tmp_path / "out.hydra.safetensors"
    merge(folders, out, size="100%", look=Look(refit=shifting(ask)))
    assert asked == ["x"]
    assert open_bundle(out).recipe["refit"] == 2
    both = decoded(out)
    assert np.array_equal(both["x"]["h.0.q"].B, both["y"]["h.0.q"].B)


def test_of_equal_adapters_the_one_with_an_answer_decides(make_adapter, tmp_path) -> None:
    folders = [make_adapter(tmp_path / name, modules_of(0)) for name in ("x", "y")]
    plain, out = tmp_path / "plain.hydra.safetensors", tmp_path / "out.hydra.safetensors"
    merge(folders, plain, size="100%")
    merge(folders, out, size="100%", look=Look(refit=grow_all(2, "y")))
    assert (
        pytest.approx(decoded(plain)["x"]["h.0.q"].B * 2 ** (2 / EXPONENT_GRID), rel=1e-8)
        == decoded(out)["x"]["h.0.q"].B
    )


def test_records_that_do_not_fit_are_refused(three, tmp_path) -> None:

    def shorter(name, modules):
        path, x = next(iter(modules().items()))
        some = np.arange(x.record.count) < x.record.count - 1
        left, right = x.record.left.keep(some), x.record.right.keep(some)
        return {
            path: dataclasses.replace(
                x.record, left=left, right=right, exponents=x.record.exponents[some]
            )
        }

    with raises(UsageError, adapter="a", module="h.0.q"):
        merge(three, tmp_path / "out", size="30%", look=Look(refit=shorter))

    def elsewhere(name, modules):
        return {"h.7.q": next(iter(modules().values())).record}

    with raises(UsageError, adapter="a", module="h.7.q"):
        merge(three, tmp_path / "out", size="30%", look=Look(refit=elsewhere))
