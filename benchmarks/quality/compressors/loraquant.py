"""LoRAQuant: of each module the strong singular parts in 2 bits, the others in 1 bit.

Mirzaei et al., arXiv 2510.26690, and the authors' code: B' = U sqrt(S), A' = sqrt(S) V^T; the first
h parts, which hold a share ``ratio`` of the energy, are rounded to 2 bits between the least and the
largest of a group of 128 (scale and zero point), the rest to a sign times the group's mean
magnitude. B goes along its columns. Different here: h is the paper's smallest count that reaches
the ratio (the code takes one less), scales and zero points are really stored (fp16 and 2 bits), and
the gradient refinement of the strong parts is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks.quality.compressors.base import (
    Compressor,
    Floats,
    Modules,
    Tasks,
    double,
    read_layout,
    write_layout,
)
from benchmarks.quality.compressors.numbers import pack_bits, unpack_bits
from hydraopt.types import thin

__all__ = ["loraquant"]

_GROUP = 128
_TOP = 3  # the last of the four levels


def _groups(vectors: list[Floats]) -> Floats:
    # Padding repeats the last entry, so that it widens no group.
    padded = [np.pad(x, (0, -x.size % _GROUP), mode="edge") for x in vectors]
    return np.concatenate([np.zeros(0, np.float32), *padded]).reshape(-1, _GROUP)


def _encode(strong: list[Floats], weak: list[Floats]) -> dict[str, NDArray[Any]]:
    high, low = _groups(strong), _groups(weak)
    least, most = high.min(axis=1, initial=0), high.max(axis=1, initial=0)
    scale = ((most - least) / _TOP).astype(np.float16)
    step = np.where(scale > 0, scale, 1).astype(np.float32)[:, None]
    zero = np.clip(np.rint(-least[:, None] / step), 0, _TOP)
    codes = np.clip(np.rint(high / step) + zero, 0, _TOP).astype(np.uint8)
    return {
        "codes": pack_bits(codes, 2),
        "scales": scale,
        "zeros": pack_bits(zero.astype(np.uint8), 2),
        "signs": pack_bits((low > 0).astype(np.uint8), 1),
        "means": np.abs(low).mean(axis=1).astype(np.float16),
    }


def _decode(arrays: dict[str, NDArray[Any]]) -> tuple[Floats, Floats]:
    """Groups of the strong and of the weak parts, end to end."""
    scales, means = arrays["scales"].astype(np.float32), arrays["means"].astype(np.float32)
    zeros = unpack_bits(arrays["zeros"], 2, scales.size).astype(np.float32)
    codes = unpack_bits(arrays["codes"], 2, scales.size * _GROUP).astype(np.float32)
    signs = unpack_bits(arrays["signs"], 1, means.size * _GROUP).astype(np.float32)
    high = (codes.reshape(-1, _GROUP) - zeros[:, None]) * scales[:, None]
    low = (2 * signs.reshape(-1, _GROUP) - 1) * means[:, None]
    return high.ravel(), low.ravel()


def loraquant(ratio: float) -> Compressor:
    """ratio: share of a module's energy in the 2-bit parts; the authors' example is 0.8."""

    def write(tasks: Tasks, folder: Path) -> None:
        layout: dict[str, list[tuple[str, int, int, int, int]]] = {}
        for task, modules in tasks.items():
            strong: list[Floats] = []
            weak: list[Floats] = []
            layout[task] = []
            for path, pair in modules.items():
                f = double(pair)
                x = thin(f.B, f.A)
                share = np.cumsum(x.s**2) / (x.energy or 1.0)
                h = min(int(np.searchsorted(share, ratio)) + 1, x.s.size)
                root = np.sqrt(x.s)
                left = (x.U * root).T.astype(np.float32)
                right = (x.V * root).T.astype(np.float32)
                strong += [*left[:h], *right[:h]]
                weak += [*left[h:], *right[h:]]
                layout[task].append((path, left.shape[1], right.shape[1], h, x.s.size))
            save_file(_encode(strong, weak), str(folder / f"{task}.safetensors"))
        write_layout(folder, layout)

    def read(folder: Path, task: str) -> Modules:
        parts = _decode(load_file(str(folder / f"{task}.safetensors")))
        at = [0, 0]

        def take(kind: int, count: int, length: int) -> Floats:
            width = length + -length % _GROUP
            start, at[kind] = at[kind], at[kind] + count * width
            return parts[kind][start : at[kind]].reshape(count, width)[:, :length]

        found = {}
        for path, m, n, h, r in read_layout(folder)[task]:
            left, right = take(0, h, m), take(0, h, n)
            b = np.concatenate([left, take(1, r - h, m)])
            found[path] = np.ascontiguousarray(b.T), np.concatenate([right, take(1, r - h, n)])
        return found

    return Compressor("loraquant", f"ratio {ratio:g}", write, read)
