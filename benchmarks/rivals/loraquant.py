"""LoRAQuant: of each module the strong singular parts in 2 bits, the others in 1 bit.

Mirzaei et al., arXiv 2510.26690, and the authors' code: B' = U sqrt(S), A' = sqrt(S) V^T; the first
h parts, which hold a share ``ratio`` of the energy, are rounded to 2 bits between the least and the
largest of a group of 128 (scale and zero point), the rest to a sign times the group's mean
magnitude. B goes along its columns. Before that the code moves both vectors of every strong part by
gradient steps, so that their rounded product comes nearer to the part. Different here: h is the
paper's smallest count that reaches the ratio (the code takes one less), and scales and zero points
are really stored (fp16 and 2 bits).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks.rivals.base import (
    Compressor,
    Floats,
    Modules,
    Tasks,
    double,
    read_layout,
    write_layout,
)
from benchmarks.rivals.numbers import pack_bits, unpack_bits
from benchmarks.rivals.registry import SetShape
from hydraopt.codec import thin

__all__ = ["loraquant", "refined", "rows"]

_GROUP = 128
_TOP = 3  # the last of the four levels
_RATIOS = (0.9, 0.8, 0.5)
_SIDES = ("left", "right")
STEPS, _RATE = 300, 1e-2  # the authors'


def _groups(vectors: list[Floats]) -> Floats:
    # Padding repeats the last entry, so that it widens no group.
    padded = [np.pad(x, (0, -x.size % _GROUP), mode="edge") for x in vectors]
    return np.concatenate([np.zeros(0, np.float32), *padded]).reshape(-1, _GROUP)


def refined(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Return vectors whose rounded products are nearer to those of left (N, m), right (N, n).

    Row by row, gradient steps on |u v^T - Q(u') Q(v')^T| are taken from u' = u, v' = v; the nearest
    seen is kept. As in the authors' code the gradient flows through the scales of the groups, not
    the rounding. The products are of rank one, so no (m, n) is formed.
    """
    u, v = torch.from_numpy(left), torch.from_numpy(right)
    moved = [x.clone().requires_grad_() for x in (u, v)]
    best = [x.clone() for x in (u, v)]
    least = torch.full((len(u),), torch.inf)
    steps = torch.optim.SGD(moved, lr=_RATE)
    size = u.square().sum(1) * v.square().sum(1)
    for _ in range(STEPS + 1):
        p, q = (_rounded(x) for x in moved)
        square = size - 2 * (u * p).sum(1) * (v * q).sum(1) + p.square().sum(1) * q.square().sum(1)
        distance = square.clamp(min=1e-12).sqrt()
        with torch.no_grad():
            better = distance < least
            least = torch.where(better, distance, least)
            for kept, x in zip(best, moved, strict=True):
                kept[better] = x[better]
        steps.zero_grad()
        torch.autograd.backward(distance.sum())
        steps.step()
    return best[0].numpy(), best[1].numpy()


def _rounded(x: torch.Tensor) -> torch.Tensor:
    """Return what ``_decode`` makes of the rows' groups, for gradients through the scale."""
    whole = torch.cat([x, x[:, -1:].expand(-1, -x.shape[1] % _GROUP)], dim=1)
    groups = whole.reshape(-1, _GROUP)
    least, most = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    step = ((most - least) / _TOP).clamp(min=1e-8)[:, None]
    zero = (-least[:, None] / step).round().clamp(0, _TOP).detach()
    codes = ((groups / step).round() + zero).clamp(0, _TOP).detach()
    return ((codes - zero) * step).reshape(whole.shape)[:, : x.shape[1]]


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
    """Return the groups of the strong and of the weak parts, end to end."""
    scales, means = arrays["scales"].astype(np.float32), arrays["means"].astype(np.float32)
    zeros = unpack_bits(arrays["zeros"], 2, scales.size).astype(np.float32)
    codes = unpack_bits(arrays["codes"], 2, scales.size * _GROUP).astype(np.float32)
    signs = unpack_bits(arrays["signs"], 1, means.size * _GROUP).astype(np.float32)
    high = (codes.reshape(-1, _GROUP) - zeros[:, None]) * scales[:, None]
    low = (2 * signs.reshape(-1, _GROUP) - 1) * means[:, None]
    return high.ravel(), low.ravel()


@dataclass
class _Parts:
    """left (r, m), right (r, n): the singular parts of a module, of which h are strong."""

    left: Floats
    right: Floats
    h: int


def _split(pair: tuple[Floats, Floats], ratio: float) -> _Parts:
    f = double(pair)
    x = thin(f.B, f.A)
    share = np.cumsum(x.s**2) / (x.energy or 1.0)
    h = min(int(np.searchsorted(share, ratio)) + 1, x.s.size)
    root = np.sqrt(x.s)
    return _Parts((x.U * root).T.astype(np.float32), (x.V * root).T.astype(np.float32), h)


def _refine(modules: Sequence[_Parts]) -> None:
    """Refine the strong parts of all modules in place, those of one shape together."""
    shapes: dict[tuple[int, int], list[_Parts]] = {}
    for x in modules:
        shapes.setdefault((x.left.shape[1], x.right.shape[1]), []).append(x)
    for same in shapes.values():
        both = (np.concatenate([getattr(x, side)[: x.h] for x in same]) for side in _SIDES)
        for side, moved in zip(_SIDES, refined(*both), strict=True):
            ends = np.cumsum([x.h for x in same])[:-1]
            for x, rows in zip(same, np.split(moved, ends), strict=True):
                getattr(x, side)[: x.h] = rows


@dataclass(frozen=True)
class _Row:
    """What the layout says of a module: m, n, strong parts h of r."""

    path: str
    m: int
    n: int
    h: int
    r: int

    @classmethod
    def of(cls, path: str, x: _Parts) -> _Row:
        return cls(path, x.left.shape[1], x.right.shape[1], x.h, len(x.left))


def _coded(parts: Sequence[_Parts]) -> dict[str, NDArray[Any]]:
    strong = [v for x in parts for v in (*x.left[: x.h], *x.right[: x.h])]
    weak = [v for x in parts for v in (*x.left[x.h :], *x.right[x.h :])]
    return _encode(strong, weak)


def _modules(arrays: dict[str, NDArray[Any]], rows: Sequence[_Row]) -> dict[str, Any]:
    parts = _decode(arrays)
    at = [0, 0]

    def take(kind: int, count: int, length: int) -> Floats:
        width = length + -length % _GROUP
        start, at[kind] = at[kind], at[kind] + count * width
        return parts[kind][start : at[kind]].reshape(count, width)[:, :length]

    found = {}
    for row in rows:
        left, right = take(0, row.h, row.m), take(0, row.h, row.n)
        b = np.concatenate([left, take(1, row.r - row.h, row.m)])
        a = np.concatenate([right, take(1, row.r - row.h, row.n)])
        found[row.path] = np.ascontiguousarray(b.T), a
    return found


def loraquant(ratio: float) -> Compressor:
    """Return LoRAQuant.

    ratio: share of a module's energy in the 2-bit parts; the authors' example is 0.8.
    """

    def write(tasks: Tasks, folder: Path) -> None:
        split = {
            task: {path: _split(pair, ratio) for path, pair in modules.items()}
            for task, modules in tasks.items()
        }
        _refine([parts for mine in split.values() for parts in mine.values() if parts.h])
        layout: dict[str, list[tuple[str, int, int, int, int]]] = {}
        for task, mine in split.items():
            layout[task] = [astuple(_Row.of(path, x)) for path, x in mine.items()]
            save_file(_coded(list(mine.values())), str(folder / f"{task}.safetensors"))
        write_layout(folder, layout)

    def read(folder: Path, task: str) -> Modules:
        rows = [_Row(*row) for row in read_layout(folder)[task]]
        return _modules(load_file(str(folder / f"{task}.safetensors")), rows)

    return Compressor("loraquant", f"ratio {ratio:g}", write, read)


def rows(shape: SetShape) -> list[Compressor]:
    """Return a row for each ratio."""
    return [loraquant(ratio) for ratio in _RATIOS]
