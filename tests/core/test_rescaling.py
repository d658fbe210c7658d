"""Other coefficients in streams that are coded already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from merge_cases import decoded, measured, modules_of, originals

from hydraopt import merge, open_bundle, read_adapters, verify_bundle
from hydraopt.coding.stream import StreamReader, StreamWriter
from hydraopt.parts import FORMS, read_record, write_parts
from hydraopt.types import EXPONENT_GRID, Factors


@pytest.fixture
def three(make_adapter, tmp_path: Path) -> list[Path]:
    return [make_adapter(tmp_path / name, modules_of(i)) for i, name in enumerate("abc")]


def grow_all(steps: int, only: str = "abc"):
    """Every part of the tasks in ``only`` by so many steps."""

    def ask(name: str, coded: dict[str, Factors]) -> dict[str, np.ndarray]:
        if name not in only:
            return {}
        return {path: np.full(f.A.shape[0], steps) for path, f in coded.items()}

    return ask


@pytest.mark.parametrize("form", [None, *FORMS])
def test_a_stream_read_and_written_again_is_the_same(three, tmp_path, form) -> None:
    merge(three, tmp_path / "x.hydra.safetensors", size="30%", forms=form and [form])
    bundle = open_bundle(tmp_path / "x.hydra.safetensors")
    modules = bundle.manifest.modules
    for entry in bundle.manifest.tasks:
        data = bundle.read(f"task/{entry.content}")
        reader, writer = StreamReader(data), StreamWriter()
        for i in entry.modules:
            bases = bundle.bases(i)
            record = read_record(reader, modules[i].m, modules[i].n, *bases)
            write_parts(writer, record, bases != (None, None))
        assert writer.finish() == data


@pytest.mark.parametrize("form", [None, *FORMS])
def test_parts_grow_by_what_is_asked_and_errors_are_measured(three, tmp_path, form) -> None:
    forms = form and [form]
    plain, grown = tmp_path / "plain.hydra.safetensors", tmp_path / "grown.hydra.safetensors"
    merge(three, plain, size="30%", forms=forms, rescaler=grow_all(0))
    made = merge(three, grown, size="30%", forms=forms, rescaler=grow_all(8, "ac"))
    before, after = decoded(plain), decoded(grown)
    for name, factor in (("a", 2 ** (8 / EXPONENT_GRID)), ("b", 1.0), ("c", 2 ** (8 / 32))):
        for path, factors in before[name].items():
            assert pytest.approx(factor * factors.B, rel=1e-12) == after[name][path].B
            assert np.array_equal(after[name][path].A, factors.A)
    for name, wanted in originals(three).items():
        assert made.errors[name] == pytest.approx(measured(after[name], wanted), rel=1e-3)
    assert open_bundle(grown).recipe["rescaled"] is True
    assert verify_bundle(grown, read_adapters(three)).ok


def test_no_answer_changes_nothing(three, tmp_path) -> None:
    for name, ask in (("none", grow_all(3, "")), ("zero", grow_all(0)), ("no", None)):
        merge(three, tmp_path / name, error=0.2, rescaler=ask)
    assert (tmp_path / "none").read_bytes() == (tmp_path / "zero").read_bytes()
    none, without = (open_bundle(tmp_path / name) for name in ("none", "no"))
    for i in range(3):
        assert none.read(f"task/{i}") == without.read(f"task/{i}")
    assert "rescaled" not in without.recipe


def test_a_part_that_is_left_out_stays(three, tmp_path) -> None:
    def ask(name: str, coded: dict[str, Factors]) -> dict[str, np.ndarray]:
        return {"h.0.q": np.arange(coded["h.0.q"].A.shape[0])}

    plain, grown = tmp_path / "plain.hydra.safetensors", tmp_path / "grown.hydra.safetensors"
    merge(three, plain, size="40%", rescaler=grow_all(0))
    merge(three, grown, size="40%", rescaler=ask)
    before, after = decoded(plain)["b"], decoded(grown)["b"]
    wanted = 2.0 ** (np.arange(before["h.0.q"].A.shape[0]) / EXPONENT_GRID)
    assert pytest.approx(before["h.0.q"].B * wanted, rel=1e-12) == after["h.0.q"].B
    assert np.array_equal(after["h.1.v"].B, before["h.1.v"].B)


@pytest.mark.parametrize("limit", ["error", "max_error"])
def test_an_error_limit_is_kept(three, tmp_path, limit) -> None:
    # Half as long again: every error grows beyond the limit, so all tasks go back.
    out = tmp_path / "x.hydra.safetensors"
    made = merge(three, out, **{limit: 0.2}, rescaler=grow_all(19))
    errors = list(made.errors.values())
    assert (np.mean(errors) if limit == "error" else max(errors)) <= 0.2


def test_a_size_is_kept(three, tmp_path) -> None:
    rng = np.random.default_rng(0)

    def ask(name: str, coded: dict[str, Factors]) -> dict[str, np.ndarray]:
        # Wild coefficients, which take more bytes than smooth ones.
        return {path: rng.integers(-900, 900, f.A.shape[0]) for path, f in coded.items()}

    plain, wild = tmp_path / "plain.hydra.safetensors", tmp_path / "wild.hydra.safetensors"
    merge(three, plain, size=9000)
    made = merge(three, wild, size=9000, rescaler=ask)
    assert wild.stat().st_size == made.size <= 9000
    assert decoded(wild)["a"]["h.0.q"].A.shape == decoded(plain)["a"]["h.0.q"].A.shape


def test_equal_adapters_are_asked_once(make_adapter, tmp_path) -> None:
    folders = [make_adapter(tmp_path / name, modules_of(0)) for name in ("x", "y")]
    asked = []

    def ask(name: str, coded: dict[str, Factors]) -> dict[str, np.ndarray]:
        asked.append(name)
        return {path: np.ones(f.A.shape[0], int) for path, f in coded.items()}

    out = tmp_path / "out.hydra.safetensors"
    merge(folders, out, size="40%", rescaler=ask)
    assert asked == ["x"]
    both = decoded(out)
    assert np.array_equal(both["x"]["h.0.q"].B, both["y"]["h.0.q"].B)
