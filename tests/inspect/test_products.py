"""What inspect says of LoHa and LoKr, whose factors are no dW's, and of what has no factors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hydraopt.bundle import open_bundle
from hydraopt.inspect import inspect_adapters, task_cosines
from hydraopt.merging import merge
from hydraopt.report.tasks import alike_of
from tests.conftest import MakeAdapter
from tests.marks import slow

PATHS = ("l.0.k_proj", "l.1.k_proj")
PREFIX = "base_model.model."
M, N, R = 64, 96, 4

Tensors = dict[str, NDArray[np.float32]]
Made = tuple[Tensors, NDArray[np.float32]]


def _random(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.normal(size=shape).astype(np.float32)


def _loha(rng: np.random.Generator, path: str) -> Made:
    tensors, product = {}, np.full((M, N), 2, np.float32)
    for i, size in ((1, 0.1), (2, 0.01)):
        a, b = size * _random(rng, M, R), _random(rng, R, N)
        tensors |= {f"{path}.hada_w{i}_a": a, f"{path}.hada_w{i}_b": b}
        product *= a @ b
    return tensors, product


def _lokr(rng: np.random.Generator, path: str) -> Made:
    """With a first factor that is stored whole."""
    w, a, b = 0.1 * _random(rng, 8, 8), _random(rng, 8, R), _random(rng, R, 12)
    names = {f"{path}.lokr_w1": w, f"{path}.lokr_w2_a": a, f"{path}.lokr_w2_b": b}
    return names, np.kron(w, 2 * a @ b)


def _both(rng: np.random.Generator, path: str) -> Made:
    sizes = (48, R), (R, 40), (32, R), (R, 64)
    pairs = [_random(rng, *size) / (99 if size[0] == 48 else 1) for size in sizes]
    names = [f"{path}.lokr_w{i}_{x}" for i in (1, 2) for x in "ab"]
    tensors = dict(zip(names, pairs, strict=True))
    return tensors, np.kron(2 * pairs[0] @ pairs[1], pairs[2] @ pairs[3])


KINDS: Mapping[str, Callable[[np.random.Generator, str], Made]] = {
    "LOHA": _loha,
    "LOKR": _lokr,
    "LOKR, both decomposed": _both,
}


def _write(folder: Path, kind: str, seed: int = 0) -> list[NDArray[np.float32]]:
    """A folder, and the dW's of its modules."""
    rng, tensors, products = np.random.default_rng(seed), {}, []
    for path in PATHS:
        own, product = KINDS[kind](rng, f"{PREFIX}{path}")
        tensors |= own
        products.append(product)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    about = {"peft_type": kind[:4], "r": R, "alpha": 2 * R, "target_modules": ["k_proj"]}
    said = {**about, "base_model_name_or_path": "org/tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return products


def _norm(products: list[NDArray[np.float32]]) -> float:
    return float(np.sqrt(sum(np.sum(x.astype(np.float64) ** 2) for x in products)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_norm_is_the_products(kind: str, tmp_path: Path) -> None:
    products = _write(tmp_path / "x", kind)
    report = inspect_adapters(tmp_path / "x")
    # What is said of products entry by entry is an estimate, of Kronecker's the number itself.
    near = 0.1 if kind == "LOHA" else 1e-5
    assert report.tasks[0].norm == pytest.approx(_norm(products), rel=near)
    rows = math.sqrt(sum(row.norm**2 for row in report.modules))
    assert rows == pytest.approx(report.tasks[0].norm)


def _error(bundle: Path, kind: str, products: list[NDArray[np.float32]]) -> float:
    """Of the dW's that the bundle gives back, dense and relative."""
    factors, off = open_bundle(bundle)["x"].factors(), []
    for path, product in zip(PATHS, products, strict=True):
        first, second = (factors[x].B @ factors[x].A for x in sorted(factors) if path in x)
        off.append((first * second if kind == "LOHA" else np.kron(first, second)) - product)
    return _norm(off) / _norm(products)


@pytest.mark.parametrize("kind", ["LOHA", slow("LOKR, both decomposed")])
def test_the_guess_is_of_the_products_error(kind: str, tmp_path: Path) -> None:
    products = _write(tmp_path / "x", kind)
    points = inspect_adapters(tmp_path / "x").curve
    made = merge([tmp_path / "x"], tmp_path / "made", max_error=0.2, workers=1)
    reached = _error(tmp_path / "made", kind, products)
    assert reached == pytest.approx(0.2, rel=0.1)
    logs = [(math.log(point.error), math.log(point.bytes)) for point in points]
    guess = math.exp(np.interp(math.log(reached), *zip(*logs, strict=True)))
    assert guess == pytest.approx(made.size, rel=0.1)


@pytest.mark.parametrize("kind", ["LOHA", slow("LOKR"), slow("LOKR, both decomposed")])
def test_no_cosine_of_factors_is_told_as_one_of_products(
    kind: str, tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    for i in range(2):
        _write(tmp_path / f"x{i}", kind, seed=i)
        rng = np.random.default_rng(i)
        make_adapter(tmp_path / f"y{i}", {"l.0.v": (_random(rng, 60, 4), _random(rng, 4, 50))})
    folders = sorted(tmp_path.iterdir())
    report = inspect_adapters(folders)
    for row in report.modules:
        told = {row.product_cosine, row.input_overlap, row.output_overlap}
        assert None not in told if row.path == "l.0.v" else told == {None}
        assert row.a_cosine is not None  # of what is in the files
    at = {name: i for i, name in enumerate(report.likeness.tasks)}
    cosines = report.likeness.products
    assert cosines[at["x0"]][at["x1"]] is None
    assert cosines[at["x0"]][at["y0"]] is None
    assert cosines[at["y0"]][at["y1"]] is not None
    assert "product_factors" in [note.code for note in report.notes]
    bundle = tmp_path / "all.hydra.safetensors"
    merge(folders, bundle, size="60%", workers=1)
    for given in ((), folders):
        opened = open_bundle(bundle)
        made = task_cosines(opened, given, list(opened))
        assert np.isfinite(made.cosines).sum() == 4
        assert np.isfinite(made.cosines[2:, 2:]).all()
        alike = alike_of(made, 4)
        assert alike is not None
        assert alike.tasks in (("y0", "y1"), ("y1", "y0"))
        assert alike.note == "2 of 4 tasks."
        assert alike_of(task_cosines(opened, given, ["x0", "x1"]), 4) is None


def _mixed(folder: Path, make_adapter: MakeAdapter) -> Path:
    """An adapter of factors, and one of vectors alone."""
    rng = np.random.default_rng(0)
    make_adapter(folder / "lora", {"l.0.k": (_random(rng, 60, 4), _random(rng, 4, 50))})
    vector: dict[str, Any] = {f"{PREFIX}l.0.k.ia3_l": 1 + 0.1 * _random(rng, 60, 1)}
    make_adapter(folder / "vectors", {}, extras=vector, peft_type="IA3", feedforward_modules=[])
    return folder


def test_what_has_no_factors_counts_as_it_does_in_a_merge(
    tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    folder = _mixed(tmp_path, make_adapter)
    mixed = [folder / "lora", folder / "vectors"]
    known = [x for x in inspect_adapters(mixed).guesses if x.bytes]
    assert len(known) > 3
    for guess in (known[0], known[-1]):
        made = merge(mixed, tmp_path / "made", error=guess.error, workers=1)
        assert guess.bytes == pytest.approx(made.size, rel=0.15)


def test_an_adapter_of_zeros_counts_as_it_does_in_a_merge(
    tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    folder = _mixed(tmp_path, make_adapter)
    make_adapter(tmp_path / "zeros", {"l.0.k": (np.zeros((60, 4)), np.ones((4, 50)))})
    report = inspect_adapters([folder / "lora", tmp_path / "zeros"])
    for point in report.curve:
        assert point.error == pytest.approx(point.worst_error / 2)
    made = merge([folder / "lora", tmp_path / "zeros"], tmp_path / "made", error=0.1, workers=1)
    assert made.errors["zeros"] == 0
    assert made.errors["lora"] > 0.1  # the mean of the two is what was limited
