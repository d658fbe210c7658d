"""Verification finds what is wrong, and only that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt.adapters import Adapter, RawTensor, read_adapter
from hydraopt.bundle import file_chunks, open_bundle, pack_bundle, verify_bundle
from hydraopt.codec import Factors, relative_error
from hydraopt.files import to_json
from tests.bundle.bundles import bundle_of


def save(folder: Path, seed: int = 0, **extras: Any) -> Adapter:
    """A random PEFT adapter of two modules, written and read."""
    rng = np.random.default_rng(seed)
    arrays = {
        f"base_model.model.h.{i}.q.lora_{side}.weight": rng.standard_normal(shape)
        for i in range(2)
        for side, shape in (("A", (3, 20)), ("B", (12, 3)))
    }
    arrays.update(extras)
    tensors = {k: RawTensor.from_numpy(k, x.astype(np.float32)) for k, x in arrays.items()}
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"".join(file_chunks(tensors)))
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return read_adapter(folder)


@pytest.fixture
def adapters(tmp_path: Path) -> list[Adapter]:
    head = np.arange(8.0).reshape(2, 4)
    named = {"base_model.model.head.weight": head}
    return [save(tmp_path / "de", 1, **named), save(tmp_path / "fr", 2, **named)]


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("step", [4, 64, 1 << 14])
def test_a_sound_bundle(
    tmp_path: Path, adapters: list[Adapter], lossless: bool, step: float
) -> None:
    bundle_of(adapters, lossless=lossless, step=step).write(tmp_path / "b")
    report = verify_bundle(tmp_path / "b", adapters)
    assert report.problems == []
    assert report.ok
    assert [x.exact for x in report.tasks] == ([5, 5] if lossless else [1, 1])
    assert all(x.measured for x in report.tasks)
    assert json.loads(json.dumps(to_json(report)))["problems"] == []
    alone = verify_bundle(tmp_path / "b")
    assert alone.ok
    assert not any(x.measured for x in alone.tasks)
    if not lossless:
        for found, stated in zip(report.tasks, alone.tasks, strict=True):
            assert found.error == pytest.approx(stated.error, rel=1e-3)


def test_lossless_factors_are_the_originals(tmp_path: Path, adapters: list[Adapter]) -> None:
    bundle_of(adapters, lossless=True).write(tmp_path / "b")
    task = open_bundle(tmp_path / "b")["de"]
    assert set(task.forms().values()) == {"lossless"}
    assert task.coded_bytes() == {}
    assert list(task.extras) == ["base_model.model.head.weight"]
    assert set(task.tensors) == set(adapters[0].tensors)
    for path, factors in task.factors().items():
        b, a = adapters[0].modules[path].factors()
        np.testing.assert_array_equal(factors.B, b)
        np.testing.assert_array_equal(factors.A, a)
    assert task.original is not None
    assert task.original.content_hash() == adapters[0].content_hash()


def test_wrong_errors_are_found(tmp_path: Path, adapters: list[Adapter]) -> None:
    parts = bundle_of(adapters, step=64)
    task = parts.manifest.tasks[0]
    for change, words in (
        ({"errors": (task.errors[0] * 1.2, task.errors[1])}, "module h.0.q has error"),
        ({"error": task.error * 1.01}, "'de' has error"),
    ):
        changed = (replace(task, **change), *parts.manifest.tasks[1:])
        manifest = replace(parts.manifest, tasks=changed)
        pack_bundle(manifest, *parts.args[1:]).write(tmp_path / "b")
        report = verify_bundle(tmp_path / "b", adapters)
        assert len(report.problems) == 1
        assert words in report.problems[0]


def test_other_originals_are_found(tmp_path: Path, adapters: list[Adapter]) -> None:
    bundle_of(adapters).write(tmp_path / "b")
    other = save(tmp_path / "x" / "de", 1, **{"base_model.model.head.weight": np.ones((2, 4))})
    problems = verify_bundle(tmp_path / "b", [other, adapters[1]]).problems
    assert problems == ["task 'de': tensor 'base_model.model.head.weight' is not what it was"]
    problems = verify_bundle(tmp_path / "b", [adapters[0]]).problems
    assert problems == ["task 'fr' is missing in the originals"]
    fewer = replace(adapters[0], modules={}, extras={})
    problems = verify_bundle(tmp_path / "b", [fewer, adapters[1]]).problems
    assert any("module h.1.q is missing in the original" in x for x in problems)


def test_an_original_that_holds_nan_is_a_problem(tmp_path: Path) -> None:
    from hydraopt import merge

    key, rng = "base_model.model.head.weight", np.random.default_rng(0)
    head = rng.standard_normal((24, 32))
    made = [save(tmp_path / name, i, **{key: head + i}) for i, name in enumerate(("de", "fr"))]
    merge(made, tmp_path / "b", error=0.2, workers=1)
    assert verify_bundle(tmp_path / "b", made).problems == []
    assert verify_bundle(tmp_path / "b", made).tasks[0].worst_tensor is not None
    head[3, 5] = np.nan
    broken = save(tmp_path / "x" / "de", 0, **{key: head})
    report = verify_bundle(tmp_path / "b", [broken, made[1]])
    assert report.problems == [
        f"task 'de': tensor {key} of the original holds NaN or infinity; it is not measured"
    ]
    assert [task.name for task in report.tasks] == ["de", "fr"]
    json.dumps(to_json(report), allow_nan=False)
    bare = replace(broken, modules={})
    assert any(key in x for x in verify_bundle(tmp_path / "b", [bare, made[1]]).problems)


def test_damage_is_a_problem_not_an_exception(tmp_path: Path, adapters: list[Adapter]) -> None:
    path = tmp_path / "b"
    bundle_of(adapters).write(path)
    data = bytearray(path.read_bytes())
    for at in (-1, -200):
        data[at] ^= 1
    path.write_bytes(data)
    problems = verify_bundle(path, adapters).problems
    assert 1 <= len(problems) <= 2
    assert "checksum" in problems[0]
    assert not verify_bundle(tmp_path / "nowhere").ok


def test_relative_error_has_no_cancellation() -> None:
    rng = np.random.default_rng(0)
    true = Factors(rng.standard_normal((40, 4)), rng.standard_normal((4, 30)))
    near = Factors(true.B * (1 + 1e-11), true.A)
    assert relative_error(true, near) == pytest.approx(1e-11, rel=1e-3)
    other = Factors(rng.standard_normal((40, 2)), rng.standard_normal((2, 30)))
    dense = np.linalg.norm(true.B @ true.A - other.B @ other.A) / np.linalg.norm(true.B @ true.A)
    assert relative_error(true, other) == pytest.approx(dense, rel=1e-12)
    none = Factors(np.zeros((40, 0)), np.zeros((0, 30)))
    assert relative_error(true, none) == pytest.approx(1)
    assert relative_error(none, none) == 0
    assert relative_error(none, true) == 1
