"""Products of factors that are stored apart: a limit holds for dW, however its size is shared out
over the factors, and the stated error is dW's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hydraopt import merge, open_bundle, verify_bundle
from hydraopt.adapters import read_adapter
from hydraopt.export import export_task
from tests.marks import slow

Tensors = dict[str, NDArray[Any]]
MODULES, RANK = 6, 4


def pair(x: Tensors, a: str, b: str) -> NDArray[Any]:
    return x[a] @ x[b]


def tucker(t: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    return np.einsum("rskl,rm,sn->mnkl", t, a, b)


def kron(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    return np.kron(one.reshape(*one.shape, *(1 for _ in other.shape[2:])), other)


def _lokr(rng: np.random.Generator, uneven: float) -> Tensors:
    return {
        "lokr_w1": rng.normal(size=(8, 8)) * uneven,
        "lokr_w2_a": rng.normal(size=(32, RANK)) / uneven,
        "lokr_w2_b": rng.normal(size=(RANK, 32)),
    }


def _whole(rng: np.random.Generator, uneven: float) -> Tensors:
    sizes = {"lokr_w1": ((8, 8), uneven), "lokr_w2": ((32, 32), 1 / uneven)}
    return {name: rng.normal(size=shape) * size for name, (shape, size) in sizes.items()}


def _lokr_core(rng: np.random.Generator, uneven: float) -> Tensors:
    return {
        "lokr_w1": rng.normal(size=(4, 4)) * uneven,
        "lokr_t2": rng.normal(size=(RANK, RANK, 3, 3)) / uneven,
        "lokr_w2_a": rng.normal(size=(RANK, 24)),
        "lokr_w2_b": rng.normal(size=(RANK, 24)),
    }


def _lora_core(rng: np.random.Generator, uneven: float) -> Tensors:
    return {
        "lora_up.weight": rng.normal(size=(40, RANK, 1, 1)) * uneven,
        "lora_mid.weight": rng.normal(size=(RANK, RANK, 3, 3)),
        "lora_down.weight": rng.normal(size=(RANK, 40, 1, 1)) / uneven,
    }


def _loha(rng: np.random.Generator, uneven: float) -> Tensors:
    return {
        "hada_w1_a": rng.normal(size=(160, RANK)) * uneven,
        "hada_w1_b": rng.normal(size=(RANK, 160)),
        "hada_w2_a": rng.normal(size=(160, RANK)) / uneven,
        "hada_w2_b": rng.normal(size=(RANK, 160)),
    }


def dense(x: Tensors) -> NDArray[Any]:
    """dW by the formulas of LyCORIS, in float64; the scale is 1, but alpha / RANK where it is."""
    x = {name: tensor.astype(np.float64) for name, tensor in x.items()}
    scale = float(x["alpha"]) / RANK
    if "lora_mid.weight" in x:
        up, down = x["lora_up.weight"][:, :, 0, 0], x["lora_down.weight"][:, :, 0, 0]
        return scale * tucker(x["lora_mid.weight"], up.T, down)
    if "hada_w1_a" in x:
        return scale * pair(x, "hada_w1_a", "hada_w1_b") * pair(x, "hada_w2_a", "hada_w2_b")
    if "lokr_w2" in x:
        return kron(x["lokr_w1"], x["lokr_w2"])
    if "lokr_t2" in x:
        factor = tucker(x["lokr_t2"], x["lokr_w2_a"], x["lokr_w2_b"])
    else:
        factor = pair(x, "lokr_w2_a", "lokr_w2_b")
    return scale * kron(x["lokr_w1"], factor)


KINDS: dict[str, Callable[[np.random.Generator, float], Tensors]] = {
    "lokr": _lokr, "lokr whole": _whole, "lokr core": _lokr_core, "lora core": _lora_core,
    "loha": _loha,
}  # fmt: skip


def written(path: Path, kinds: list[str], spread: float, seed: int) -> Path:
    """A LyCORIS file. All dW of a kind have one size, whose share in the first factor grows from
    module to module by ``spread``; alphas differ."""
    rng, tensors = np.random.default_rng(seed), {}
    for i in range(MODULES):
        parts = KINDS[kinds[i % len(kinds)]](rng, spread ** (i - MODULES / 2))
        parts["alpha"] = np.array(RANK * 2.0 ** (i % 3))
        tensors |= {f"lora_unet_b_{i}_q.{k}": v.astype(np.float32) for k, v in parts.items()}
    save_file(tensors, path)
    return path


def changes(path: Path) -> list[NDArray[Any]]:
    tensors = load_file(path)
    stems = dict.fromkeys(key.partition(".")[0] for key in tensors)
    apart = [
        {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{stem}.")}
        for stem in stems
    ]
    return [dense(x) for x in apart]


def relative_error(one: Path, other: Path) -> float:
    pairs = list(zip(changes(one), changes(other), strict=True))
    wrong = sum(float(np.sum((x - y) ** 2)) for x, y in pairs)
    return float(np.sqrt(wrong / sum(float(np.sum(x**2)) for x, _ in pairs)))


@pytest.mark.parametrize(
    "kinds",
    [["lokr"], ["lora core"], ["lokr", "lokr whole", "lokr core", "lora core"],
     slow(["lokr whole"]), slow(["lokr core"]), slow(["loha"])],
    ids="-".join,
)  # fmt: skip
@pytest.mark.parametrize("spread", [4.0, slow(1.0)])
def test_a_limit_holds_for_the_product(kinds: list[str], spread: float, tmp_path: Path) -> None:
    files = [written(tmp_path / f"s{i}.safetensors", kinds, spread, i) for i in range(2)]
    bundle = tmp_path / "b.hydra.safetensors"
    merge(files, bundle, max_error=0.05, workers=1)
    # Errors of LoHa and of cores are estimates: their factors are taken as independent.
    near = 0.02 if kinds == ["lokr"] else 0.1
    for file in files:
        task = open_bundle(bundle)[file.stem]
        export_task(task, tmp_path / f"{file.stem}-back.safetensors", format="kohya")
        true = relative_error(file, tmp_path / f"{file.stem}-back.safetensors")
        assert task.error == pytest.approx(true, rel=near)
        assert 0.03 < true < 0.05 * (1 + near)
    report = verify_bundle(bundle, [read_adapter(file) for file in files])
    assert report.problems == []
    assert [x.error for x in report.tasks] == pytest.approx(
        [open_bundle(bundle)[file.stem].error for file in files], rel=1e-3
    )


def test_what_is_kept_bit_by_bit_counts_in_the_product(tmp_path: Path) -> None:
    file = written(tmp_path / "s.safetensors", ["lokr"], 4.0, 0)
    bundle = tmp_path / "b.hydra.safetensors"
    merge([file], bundle, max_error=0.05, exact=["*lokr_w1"], workers=1)
    task = open_bundle(bundle)["s"]
    export_task(task, tmp_path / "back.safetensors", format="kohya")
    true = relative_error(file, tmp_path / "back.safetensors")
    assert 0.03 < true < 0.051
    assert task.error == pytest.approx(true, rel=0.02)
