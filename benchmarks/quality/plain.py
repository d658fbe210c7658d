"""The plain rivals: rounding in groups, and a truncated SVD in fp16. Really written and read back.

Both write one file an adapter: the numbers of all modules end to end, and the layout once in the
header. That is smaller than one tensor a module would be, so the rivals are not burdened with
names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from hydraopt.adapters import Adapter
from hydraopt.types import Thin, thin

__all__ = ["GROUP", "FactorsByModule", "read_rounded", "read_svd", "svd_parts", "write_rounded"]

GROUP = 32
Floats = NDArray[np.float32]
FactorsByModule = dict[str, tuple[Floats, Floats]]

_CANDIDATES = np.linspace(0.4, 1.05, 27)
"""Scales tried, as fractions of what makes the largest of a group the last level."""


def _round(groups: Floats, bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Codes and scales of groups (G, 32): the scale with the least squared error of each group."""
    half = (2**bits - 1) / 2
    largest = np.abs(groups).max(axis=1)
    best = np.full(groups.shape[0], np.inf)
    scales = np.zeros(groups.shape[0], np.float16)
    codes = np.zeros(groups.shape, np.uint8)
    for fraction in _CANDIDATES:
        scale = (fraction * largest / half).astype(np.float16)
        step = np.where(scale > 0, scale, 1).astype(np.float32)[:, None]
        found = np.clip(np.rint(groups / step + half), 0, 2 * half)
        error = np.square((found - half) * scale.astype(np.float32)[:, None] - groups).sum(axis=1)
        better = error < best
        best[better], scales[better] = error[better], scale[better]
        codes[better] = found[better].astype(np.uint8)
    return codes, scales


def _pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    planes = np.unpackbits(codes.reshape(-1, 1), axis=1, bitorder="little", count=bits)
    return np.packbits(planes.ravel(), bitorder="little")


def _unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    planes = np.unpackbits(packed, bitorder="little", count=count * bits).reshape(count, bits)
    return np.packbits(planes, axis=1, bitorder="little")[:, 0]


def _layout(rows: Sequence[Sequence[Any]]) -> dict[str, str]:
    return {"layout": json.dumps(rows, separators=(",", ":"))}


def write_rounded(adapter: Adapter, bits: int, path: Path) -> None:
    """Round A and B^T, as stored, in groups of 32 along the long axis; one fp16 scale a group."""
    vectors, layout = [], []
    for name, module in adapter.modules.items():
        b, a = module.factors()
        vectors += [(b / np.float32(module.scale)).T.ravel(), a.ravel()]
        layout.append([name, module.m, module.n, module.r, module.scale])
    padded = [np.pad(x, (0, -x.size % GROUP)) for x in vectors]
    codes, scales = _round(np.concatenate(padded).reshape(-1, GROUP), bits)
    save_file({"codes": _pack(codes, bits), "scales": scales}, str(path), _layout(layout))


def read_rounded(path: Path, bits: int) -> FactorsByModule:
    """Factors of a file of :func:`write_rounded`, scale folded into B."""
    with safe_open(str(path), "numpy") as file:
        layout = json.loads(file.metadata()["layout"])
        scales = file.get_tensor("scales").astype(np.float32)
        codes = _unpack(file.get_tensor("codes"), bits, scales.size * GROUP)
    values = codes.reshape(-1, GROUP).astype(np.float32) - np.float32((2**bits - 1) / 2)
    flat = (values * scales[:, None]).ravel()
    result: FactorsByModule = {}
    at = 0
    for name, m, n, r, scale in layout:
        b = flat[at : at + m * r].reshape(r, m).T * np.float32(scale)
        at += m * r + -(m * r) % GROUP
        result[name] = (np.ascontiguousarray(b), flat[at : at + n * r].reshape(r, n))
        at += n * r + -(n * r) % GROUP
    return result


def svd_parts(
    adapters: Sequence[Adapter], fractions: Sequence[float], folder: Path
) -> Iterator[tuple[float, list[Path]]]:
    """Truncated SVDs of all adapters at fractions of their fp16 bytes: (fraction, files).

    Which parts stay is decided over all adapters and modules together, by energy relative to the
    adapter's own, for a number stored.
    """
    thins: list[dict[str, Thin]] = []
    gains, sizes = [], []
    for adapter in adapters:
        mine = {}
        for name, module in adapter.modules.items():
            b, a = module.factors()
            mine[name] = thin(b.astype(np.float64), a.astype(np.float64))
        thins.append(mine)
        total = sum(x.energy for x in mine.values())
        for x in mine.values():
            numbers = x.U.shape[0] + x.V.shape[0]
            gains.append(x.s**2 / total / numbers)
            sizes.append(np.full(x.s.size, numbers))
    gain, size = np.concatenate(gains), np.concatenate(sizes)
    order = np.argsort(-gain, kind="stable")
    filled = np.cumsum(size[order])
    for fraction in fractions:
        budget = fraction * sum(adapter.numbers for adapter in adapters)
        last = int(np.searchsorted(filled, budget, side="right"))
        if last == 0:
            continue
        floor = gain[order[last - 1]]
        files = []
        for adapter, mine in zip(adapters, thins, strict=True):
            total = sum(x.energy for x in mine.values())
            path = folder / f"{adapter.name}.safetensors"
            _write_svd(mine, total, float(floor), path)
            files.append(path)
        yield fraction, files


def _write_svd(thins: Mapping[str, Thin], total: float, floor: float, path: Path) -> None:
    numbers, layout = [np.zeros(0, np.float16)], []
    for name, x in thins.items():
        m, n = x.U.shape[0], x.V.shape[0]
        k = int(np.count_nonzero(x.s**2 / total / (m + n) >= floor))
        root = np.sqrt(x.s[:k])
        numbers += [(x.U[:, :k] * root).ravel().astype(np.float16)]
        numbers += [(x.V[:, :k] * root).T.ravel().astype(np.float16)]
        layout.append([name, m, n, k])
    save_file({"numbers": np.concatenate(numbers)}, str(path), _layout(layout))


def read_svd(path: Path) -> FactorsByModule:
    """Factors of a file of :func:`svd_parts`."""
    with safe_open(str(path), "numpy") as file:
        layout = json.loads(file.metadata()["layout"])
        flat = file.get_tensor("numbers").astype(np.float32)
    result: FactorsByModule = {}
    at = 0
    for name, m, n, k in layout:
        b = flat[at : at + m * k].reshape(m, k)
        at += m * k
        result[name] = (b, flat[at : at + n * k].reshape(k, n))
        at += n * k
    return result
