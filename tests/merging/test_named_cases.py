"""Merging what is odd: equal adapters, zeros, extreme ranks, modules of one, broken files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import open_bundle, read_adapters, verify_bundle
from hydraopt.codec import FORMS
from hydraopt.errors import NumericalError, UsageError
from hydraopt.merging import merge
from hydraopt.merging.options import DEFAULT_MAX_ERROR
from tests.compress.core_factors import dense, relative_error
from tests.marks import FORM_CASES, slow
from tests.merging.merge_cases import PATHS, Modules, decoded, measured, modules_of, originals
from tests.raising import raises

HEAD = "base_model.model.score.weight"


def test_identical_adapters_are_stored_once(make_adapter, tmp_path) -> None:
    def size(count: int) -> int:
        for i in range(count):
            make_adapter(tmp_path / str(count) / f"t{i}", modules_of(0))
        result = merge(str(tmp_path / str(count) / "*"), tmp_path / "out", error=0.05, workers=1)
        assert sum(result.forms.values()) == len(PATHS)  # coded once, not only stored once
        return result.size

    one, four = size(1), size(4)
    assert four < one + 300
    bundle = open_bundle(tmp_path / "out")
    assert len([name for name in bundle.tensor_bytes if name.startswith("task/")]) == 1
    factors = [task.factors() for task in bundle.values()]
    for path in PATHS:
        assert all(np.array_equal(factors[0][path].B, x[path].B) for x in factors[1:])


@pytest.mark.parametrize("form", [None, *FORM_CASES])
def test_an_all_zero_adapter(make_adapter, three, tmp_path, form) -> None:
    zero = {path: (np.zeros_like(b), a) for path, (b, a) in modules_of(5).items()}
    folders = [*three, make_adapter(tmp_path / "zero", zero)]
    forms = [form] if form else None
    result = merge(folders, tmp_path / "out", error=0.2, forms=forms, workers=1)
    assert result.errors["zero"] == 0
    for factors in decoded(tmp_path / "out")["zero"].values():
        assert not dense(factors).any()


LIMITS: list[dict[str, Any]] = [
    {"size": "50%"}, {"error": 0.1}, {"max_error": 0.1}, {"lossless": True}, {}
]  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_nothing_but_zeros(make_adapter, tmp_path, limit) -> None:
    zero = {path: (np.zeros_like(b), a) for path, (b, a) in modules_of(5).items()}
    folder = make_adapter(tmp_path / "zero", zero)
    result = merge([folder], tmp_path / "out", workers=1, **limit)
    assert result.errors == {"zero": 0.0}
    assert "size" in limit or result.passes <= 2
    for factors in decoded(tmp_path / "out")["zero"].values():
        assert not dense(factors).any()


def _single(make_adapter: Any, folder: Path) -> list[Path]:
    return [make_adapter(folder / "one", modules_of(0))]


def _tiny(make_adapter: Any, folder: Path) -> list[Path]:
    pair = {"h.7.x": (np.array([[0.3]]), np.array([[1.7]]))}
    return [make_adapter(folder / "tiny", pair), make_adapter(folder / "one", modules_of(0))]


def _one_number(make_adapter: Any, folder: Path) -> list[Path]:
    return [make_adapter(folder / "n", {"h.0.q": (np.array([[0.3]]), np.array([[1.7]]))})]


def _with_zeros(make_adapter: Any, folder: Path) -> list[Path]:
    zero = {path: (np.zeros_like(b), a) for path, (b, a) in modules_of(5).items()}
    return [make_adapter(folder / "zero", zero), make_adapter(folder / "one", modules_of(0))]


def _heads_alone(make_adapter: Any, folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    zero = {path: (np.zeros_like(b), a) for path, (b, a) in modules_of(5).items()}
    extras = [{HEAD: rng.standard_normal((40, 64)).astype(np.float32)} for _ in range(2)]
    return [make_adapter(folder / f"t{i}", zero, extras=x) for i, x in enumerate(extras)]


def _apart_in_size(make_adapter: Any, folder: Path) -> list[Path]:
    loud = {path: (1e6 * b, a) for path, (b, a) in modules_of(3).items()}
    return [make_adapter(folder / "loud", loud), make_adapter(folder / "one", modules_of(0))]


@pytest.mark.parametrize(
    "case", [_single, _tiny, _one_number, _with_zeros, _heads_alone, _apart_in_size]
)
def test_the_default_keeps_its_word_of_odd_adapters(make_adapter, tmp_path, case) -> None:
    folders = case(make_adapter, tmp_path)
    result = merge(folders, tmp_path / "out", workers=1)
    assert max(result.errors.values()) <= DEFAULT_MAX_ERROR
    assert verify_bundle(tmp_path / "out", read_adapters(folders)).ok


def test_the_default_of_adapters_of_which_nothing_is_coded(make_adapter, tmp_path) -> None:
    head = {HEAD: np.ones((40, 64), np.float32)}
    folder = make_adapter(tmp_path / "t", modules_of(0), extras=head)
    result = merge([folder], tmp_path / "out", exact=["*"], workers=1)
    kept = open_bundle(tmp_path / "out")["t"].carried
    assert HEAD in kept
    assert max(result.errors.values()) <= DEFAULT_MAX_ERROR


@pytest.mark.parametrize("form", [None, *map(slow, FORMS)])
@pytest.mark.parametrize(
    "shape", [{"r": 1}, {"m": 5, "n": 64, "r": 12}, {"m": 64, "n": 6, "r": 12}], ids=str
)
def test_ranks_of_one_and_beyond_the_shape(make_adapter, tmp_path, shape, form) -> None:
    rng = np.random.default_rng(3)
    size = {"m": 48, "n": 64, **shape}
    folders = []
    for i in range(3):
        pairs: Modules = {
            path: (
                rng.standard_normal((size["m"], size["r"])),
                rng.standard_normal((size["r"], size["n"])),
            )
            for path in PATHS
        }
        folders.append(make_adapter(tmp_path / str(i), pairs))
    forms = [form] if form else None
    result = merge(folders, tmp_path / "out", error=0.05, forms=forms, workers=1)
    got, wanted = decoded(tmp_path / "out"), originals(folders)
    for name, error in result.errors.items():
        assert measured(got[name], wanted[name]) == pytest.approx(error, rel=1e-3)
        for factors in got[name].values():
            assert factors.A.shape[0] <= 2 * min(size["m"], size["n"]) + 1


def test_a_module_that_one_adapter_has(make_adapter, three, tmp_path) -> None:
    rng = np.random.default_rng(6)
    more = {
        **modules_of(6),
        "h.9.extra": (rng.standard_normal((10, 2)), rng.standard_normal((2, 12))),
    }
    folders = [*three, make_adapter(tmp_path / "more", more, base="org/tiny")]
    merge(folders, tmp_path / "out", error=0.1, workers=1)
    got, wanted = decoded(tmp_path / "out"), originals(folders)
    assert set(got["more"]) == {*PATHS, "h.9.extra"}
    assert set(got["a"]) == set(PATHS)
    assert relative_error(got["more"]["h.9.extra"], wanted["more"]["h.9.extra"]) < 0.3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_broken_adapter_is_refused_and_nothing_is_written(
    make_adapter, three, tmp_path, bad, side
) -> None:
    modules: dict[str, Any] = modules_of(5)
    modules["h.1.v"][side][1, 2] = bad
    broken = make_adapter(tmp_path / "broken", modules)
    with raises(
        NumericalError, module="h.1.v", file="adapter_model.safetensors", expected="finite numbers"
    ) as caught:
        merge([*three, broken], tmp_path / "out", size="20%", workers=1)
    assert "broken" in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_no_adapters(tmp_path) -> None:
    with pytest.raises(UsageError):
        merge([], tmp_path / "out")


def test_two_adapters_of_one_name(three, tmp_path) -> None:
    adapters = read_adapters(three)
    with raises(UsageError, got="['a', 'a', 'b', 'c']"):
        merge([*adapters, adapters[0]], tmp_path / "out")
