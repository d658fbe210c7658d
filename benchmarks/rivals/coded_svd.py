"""Truncated SVDs of each adapter, rounded with one slope and entropy-coded.

What a careful competitor would write: the parts of every module's SVD, rounded with steps that cost
the same error for a bit everywhere, a dead zone, the right side fitted again to the rounded left
one, and the integers in a range code with a normal model (the library constriction, Bamler 2022,
arXiv 2201.01741). The step of an entry of b_i is that of dW over |a_i|, and the reverse; norms are
stored in quarters of an octave, and give the spreads of the integers as well. Steps are relative to
the adapter's |dW|.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from benchmarks.rivals.base import (
    Compressor,
    Floats,
    Modules,
    Tasks,
    double,
    read_layout,
    write_layout,
)
from benchmarks.rivals.registry import Scene
from benchmarks.rivals.svd import cut_by_rank
from hydraopt.linalg.shapes import Factors

if TYPE_CHECKING:
    from benchmarks.rivals.taught import Teach

__all__ = ["coded_svd", "rows"]

NOISES: Final = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.2)
"""Relative errors that uniform rounding of every number by the step would make."""
_ROUNDS_UP: Final = 0.4
"""Fraction of a step from which an entry goes to the next integer: below 1/2 for a dead zone."""
_OCTAVE: Final = 4
"""Steps of a stored norm to an octave."""
_HEAD: Final = struct.Struct("<II")
_Sizes = list[tuple[str, int, int, int]]
"""Of each module its path, m, n and r."""
Weigh = Callable[[str, Mapping[str, int]], float]
"""Weight of a squared error in a module, from its path and all heights m by path."""


def coded_svd(
    noise: float,
    rank: int,
    weigh: Weigh | None = None,
    teach: Teach | None = None,
) -> Compressor:
    """All parts of each adapter with this noise. weigh: default all alike. teach: moves factors
    before they are rounded."""
    cut = cut_by_rank(rank)

    def steps(modules: Modules) -> dict[str, float]:
        energy = sum(double(pair).squared_norm() for pair in modules.values())
        numbers = sum(b.size + a.size for b, a in modules.values())
        step = noise * float(np.sqrt(12 * energy / max(numbers, 1)))
        heights = {path: b.shape[0] for path, (b, _) in modules.items()}
        return {p: step / np.sqrt(weigh(p, heights) if weigh else 1.0) for p in modules}

    def write(tasks: Tasks, folder: Path) -> None:
        layout: dict[str, Any] = {}
        for task, modules in cut(tasks).items():
            step = steps(modules)

            def rounded(given: Modules, step: Mapping[str, float] = step) -> Modules:
                return {p: _rounded(pair, step[p])[1] for p, pair in given.items()}

            kept = {**modules, **teach(task, modules, rounded)} if teach else modules
            layout[task] = [[p, b.shape[0], a.shape[1], a.shape[0]] for p, (b, a) in kept.items()]
            whole = None if teach else tasks[task]
            (folder / f"{task}.bin").write_bytes(_encoded(kept, step, whole))
        write_layout(folder, layout)

    def read(folder: Path, task: str) -> Modules:
        return _decoded((folder / f"{task}.bin").read_bytes(), read_layout(folder)[task])

    method = "coded svd" + (", weighed" if weigh else "") + (", prompts" if teach else "")
    return Compressor(method, f"{noise:g}", write, read, of_package=teach is not None)


def as_ours(path: str, heights: Mapping[str, int]) -> float:
    """hydraopt's weights of modules: outputs count twice, keys and values as often as query heads
    share them."""
    parent, _, name = path.rpartition(".")
    if name in ("k_proj", "v_proj"):
        return heights.get(f"{parent}.q_proj", heights[path]) / heights[path]
    return 2.0 if name == "o_proj" else 1.0


def rows(scene: Scene) -> list[Compressor]:
    return [
        *(coded_svd(noise, scene.rank) for noise in NOISES),
        *(coded_svd(noise, scene.rank, as_ours) for noise in NOISES),
    ]


# --- rounding ---------------------------------------------------------------------------------


def _near(norms: Floats) -> NDArray[np.int8]:
    """Norms in quarters of an octave."""
    logs = np.rint(_OCTAVE * np.log2(np.maximum(norms, 1e-9)))
    codes: NDArray[np.int8] = np.clip(logs, -127, 127).astype(np.int8)
    return codes


def _norms(codes: NDArray[np.int8]) -> Floats:
    return (2.0 ** (codes.astype(np.float64) / _OCTAVE)).astype(np.float32)


def _integers(values: Floats) -> NDArray[np.int32]:
    """Values (k, N) in steps, to integers with a dead zone."""
    return (np.sign(values) * np.floor(np.abs(values) + _ROUNDS_UP)).astype(np.int32)


def _rounded(
    pair: tuple[Floats, Floats], step: float, whole: Factors | None = None
) -> tuple[tuple[Any, Any, Any, Any], tuple[Floats, Floats]]:
    """(codes of norms and integers, both sides), and the factors that they stand for.

    whole: what the right side is fitted to once the left one is rounded; None to leave it.
    """
    b, a = pair[0].T, pair[1]
    norm_b, norm_a = _near(np.linalg.norm(b, axis=1)), _near(np.linalg.norm(a, axis=1))
    unit_b, unit_a = (step / _norms(x)[:, None] for x in (norm_a, norm_b))
    left = _integers(b / unit_b)
    coded_b = left * unit_b
    if whole is not None:
        used = np.any(left, axis=1)
        some = coded_b[used].astype(np.float64)
        # pinv(B) dW, with dW = whole.B whole.A: the least squares of a right side.
        fitted = np.linalg.lstsq(some.T, whole.B, rcond=None)[0] @ whole.A
        a = np.zeros_like(a)
        a[used] = fitted
    right = _integers(a / unit_a)
    return (norm_b, norm_a, left, right), (
        np.ascontiguousarray(coded_b.T, np.float32),
        (right * unit_a).astype(np.float32),
    )


# --- the code ---------------------------------------------------------------------------------


def _spreads(norm_b: Any, norm_a: Any, step: float, m: int, n: int) -> tuple[Any, Any]:
    """Standard deviations of the integers of both sides, (k, m) and (k, n)."""
    both = _norms(norm_b).astype(np.float64) * _norms(norm_a) / step
    made = [np.maximum(np.repeat(both[:, None] / np.sqrt(x), x, axis=1), 0.02) for x in (m, n)]
    return made[0], made[1]


def _encoded(modules: Modules, steps: Mapping[str, float], whole: Modules | None) -> bytes:
    import constriction

    norms, symbols, spreads = [], [], []
    for path, pair in modules.items():
        to = double(whole[path]) if whole else None
        step = float(np.float32(steps[path]))
        (norm_b, norm_a, left, right), _ = _rounded(pair, step, to)
        norms += [np.float32(step).tobytes(), norm_b.tobytes(), norm_a.tobytes()]
        symbols += [left.ravel(), right.ravel()]
        m, n = pair[0].shape[0], pair[1].shape[1]
        spreads += [x.ravel() for x in _spreads(norm_b, norm_a, step, m, n)]
    every = np.concatenate(symbols)
    most = int(np.abs(every).max(initial=1))
    coder = constriction.stream.queue.RangeEncoder()
    model = constriction.stream.model.QuantizedGaussian(-most, most)
    coder.encode(every, model, np.zeros(every.size), np.concatenate(spreads))
    side = zstandard.ZstdCompressor(19).compress(b"".join(norms))
    codes: bytes = coder.get_compressed().tobytes()
    return _HEAD.pack(most, len(side)) + side + codes


def _decoded(data: bytes, sizes: _Sizes) -> dict[str, tuple[Floats, Floats]]:
    import constriction

    most, length = _HEAD.unpack_from(data)
    side = zstandard.ZstdDecompressor().decompress(data[_HEAD.size : _HEAD.size + length])
    parts, spreads, at = {}, [], 0
    for path, m, n, r in sizes:
        step = float(np.frombuffer(side, np.float32, 1, at)[0])
        norm_b, norm_a = (np.frombuffer(side, np.int8, r, at + 4 + x) for x in (0, r))
        parts[path], at = (step, norm_b, norm_a), at + 4 + 2 * r
        spreads += [x.ravel() for x in _spreads(norm_b, norm_a, step, m, n)]
    codes = np.frombuffer(data, np.uint32, offset=_HEAD.size + length)
    decoder = constriction.stream.queue.RangeDecoder(codes)
    model = constriction.stream.model.QuantizedGaussian(-most, most)
    every = np.concatenate(spreads)
    symbols, found = decoder.decode(model, np.zeros(every.size), every), {}
    at = 0
    for path, m, n, r in sizes:
        step, norm_b, norm_a = parts[path]
        left, right = symbols[at : at + r * m], symbols[at + r * m : at + r * (m + n)]
        at += r * (m + n)
        b = left.reshape(r, m) * (step / _norms(norm_a)[:, None])
        a = right.reshape(r, n) * (step / _norms(norm_b)[:, None])
        found[path] = np.ascontiguousarray(b.T, np.float32), a.astype(np.float32)
    return found
