"""An SVD of every module of each adapter, rounded and entropy-coded.

What a careful competitor would write. The singular vectors b and a of a part, each of the length of
the root of its singular value, are rounded by a step over that length, so that one more bit removes
about the same error of dW anywhere; small entries become zero. The right side is fitted to the
rounded left one before it is rounded. A range coder (the library constriction, Bamler 2022, arXiv
2201.01741) writes the integers, with a table of frequencies for each class of spread, counted over
all adapters. Steps are relative to the adapter's |dW|. Each adapter is coded alone.

With prompts the parts are moved before they are rounded, to keep the original's answers; lengths
and steps stay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from benchmarks.rivals.base import (
    WITH_PROMPTS,
    Compressor,
    Floats,
    Modules,
    Tasks,
    double,
    read_layout,
    write_layout,
)
from benchmarks.rivals.registry import SetShape
from hydraopt.codec import thin

if TYPE_CHECKING:
    from benchmarks.rivals.taught import Teach

__all__ = ["NOISES", "as_ours", "coded_svd", "rows", "taught_rows"]

NOISES: Final = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.2, 1.6, 2.2)
"""Relative errors that uniform rounding of every number by the step would make."""
_TAUGHT: Final = (0.5, 1.2)
_ROUNDS_UP: Final = 0.4
"""Fraction of a step from which an entry goes to the next integer: below 1/2 for a dead zone."""
_OCTAVE: Final = 4
"""Steps of a stored length, and classes of spread, to an octave."""
_LOWEST: Final = -16
"""Class of the smallest spreads, whose integers are nearly all zero."""
_Integers = NDArray[np.int32]
Weigh = Callable[[str, Mapping[str, int]], float]
"""Weight of a squared error in a module, from its path and all heights m by path."""


@dataclass(frozen=True)
class _Rounded:
    """A module after rounding. lengths (k,): of each side of the parts, in quarters of an octave.
    left (k, m), right (k, n): integers."""

    step: np.float32
    lengths: NDArray[np.int8]
    left: _Integers
    right: _Integers

    def factors(self) -> tuple[Floats, Floats]:
        unit = (self.step / _length(self.lengths))[:, None]
        b, a = ((x * unit).astype(np.float32) for x in (self.left, self.right))
        return np.ascontiguousarray(b.T), a


@dataclass(frozen=True)
class _Scale:
    """How a module is rounded. lengths: as in _Rounded."""

    step: np.float32
    lengths: NDArray[np.int8]

    def rounded(self, pair: tuple[Floats, Floats]) -> _Rounded:
        """Return the parts of B (m, k) and A (k, n), the right side fitted to the rounded left."""
        whole, unit = double(pair), (self.step / _length(self.lengths))[:, None]
        left = _integers(whole.B.T / unit)
        right = np.zeros_like(whole.A)
        used = np.any(left, axis=1)
        # pinv(B) dW: the least squares of a right side for the rounded left one.
        some = (left * unit)[used].astype(np.float64).T
        right[used] = np.linalg.lstsq(some, whole.B, rcond=None)[0] @ whole.A
        return _Rounded(self.step, self.lengths, left, _integers(right / unit))


def coded_svd(noise: float, weigh: Weigh | None = None, teach: Teach | None = None) -> Compressor:
    """Return a compressor of all parts of each adapter with this noise.

    weigh: default all modules alike. teach: moves the parts before they are rounded.
    """

    def rounded_task(task: str, modules: Modules) -> dict[str, _Rounded]:
        parts = {path: _halves(pair) for path, pair in modules.items()}
        scales = dict(_scales(parts, noise, weigh))

        def rounded(moved: Modules) -> dict[str, _Rounded]:
            return {path: scales[path].rounded(pair) for path, pair in moved.items()}

        if teach:
            parts |= teach(task, parts, lambda x: {p: y.factors() for p, y in rounded(x).items()})
        return rounded(parts)

    def write(tasks: Tasks, folder: Path) -> None:
        rounded = {task: rounded_task(task, modules) for task, modules in tasks.items()}
        counts = _counted(x for modules in rounded.values() for x in modules.values())
        sizes = {
            task: [[p, x.left.shape[1], x.right.shape[1], len(x.left)] for p, x in modules.items()]
            for task, modules in rounded.items()
        }
        write_layout(folder, {"sizes": sizes, "counts": counts})
        for task, modules in rounded.items():
            (folder / f"{task}.bin").write_bytes(_encoded(list(modules.values()), counts))

    def read(folder: Path, task: str) -> Modules:
        layout = read_layout(folder)
        counts = {int(key): x for key, x in layout["counts"].items()}
        sizes = layout["sizes"][task]
        found = _decoded((folder / f"{task}.bin").read_bytes(), [x[1:] for x in sizes], counts)
        return {path: x.factors() for (path, *_), x in zip(sizes, found, strict=True)}

    method = "coded svd" + (", weighed" if weigh else "") + (WITH_PROMPTS if teach else "")
    return Compressor(method, f"{noise:g}", write, read)


def as_ours(path: str, heights: Mapping[str, int]) -> float:
    """Return hydraopt's weight of a module.

    Outputs count twice, keys and values as often as query heads share them.
    """
    parent, _, name = path.rpartition(".")
    if name in ("k_proj", "v_proj"):
        return heights.get(f"{parent}.q_proj", heights[path]) / heights[path]
    return 2.0 if name == "o_proj" else 1.0


def rows(shape: SetShape) -> list[Compressor]:
    """Return a row for each noise, with all modules alike and with hydraopt's weights."""
    return [coded_svd(noise, weigh) for weigh in (None, as_ours) for noise in NOISES]


def taught_rows(teach: Teach) -> list[Compressor]:
    """Return rows with prompts; each takes minutes a task."""
    return [coded_svd(noise, as_ours, teach) for noise in _TAUGHT]


# --- rounding ---------------------------------------------------------------------------------


def _scales(parts: Modules, noise: float, weigh: Weigh | None) -> Iterator[tuple[str, _Scale]]:
    energy = sum(double(pair).squared_norm() for pair in parts.values())
    numbers = sum(b.size + a.size for b, a in parts.values())
    step = noise * float(np.sqrt(12 * energy / max(numbers, 1)))
    heights = {path: b.shape[0] for path, (b, _) in parts.items()}
    for path, (_, a) in parts.items():
        mine = step / np.sqrt(weigh(path, heights) if weigh else 1.0)
        logs = np.rint(_OCTAVE * np.log2(np.maximum(np.linalg.norm(a, axis=1), 1e-9)))
        yield path, _Scale(np.float32(mine), np.clip(logs, -127, 127).astype(np.int8))


def _halves(pair: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Return the singular vectors of B A, each of the length of the root of its singular value."""
    whole = double(pair)
    parts = thin(whole.B, whole.A)
    root = np.sqrt(parts.s)
    return (parts.U * root).astype(np.float32), (parts.V * root).T.astype(np.float32)


def _length(codes: NDArray[np.int8]) -> Floats:
    return (2.0 ** (codes.astype(np.float64) / _OCTAVE)).astype(np.float32)


def _integers(values: NDArray[Any]) -> _Integers:
    """Return values in steps as integers, with a dead zone."""
    whole: _Integers = (np.sign(values) * np.floor(np.abs(values) + _ROUNDS_UP)).astype(np.int32)
    return whole


# --- the code ---------------------------------------------------------------------------------


def _classes(step: np.float32, lengths: NDArray[np.int8], size: int) -> NDArray[np.int64]:
    """Return the class of the integers of each part, (k,), from what their spread should be."""
    spread = _length(lengths).astype(np.float64) ** 2 / float(step) / np.sqrt(size)
    logs = np.rint(_OCTAVE * np.log2(np.maximum(spread, 1e-9))).astype(np.int64)
    classes: NDArray[np.int64] = np.maximum(logs, _LOWEST)
    return classes


def _by_class(modules: Sequence[_Rounded]) -> dict[int, list[_Integers]]:
    """Return the integers of all parts by class, module by module, left before right."""
    found: dict[int, list[_Integers]] = defaultdict(list)
    for x in modules:
        for side in (x.left, x.right):
            for one, row in zip(_classes(x.step, x.lengths, side.shape[1]), side, strict=True):
                found[int(one)].append(row)
    return dict(sorted(found.items()))


def _counted(modules: Iterator[_Rounded]) -> dict[int, list[int]]:
    """Return the frequencies of -K to K by class."""
    counts: dict[int, list[int]] = {}
    for one, side in _by_class(list(modules)).items():
        values = np.concatenate(side)
        most = int(np.abs(values).max())
        counts[one] = np.bincount(values + most, minlength=2 * most + 1).tolist()
    return counts


def _model(counts: Sequence[int]) -> Any:
    """Return the model of a class; None for one that has one integer alone."""
    import constriction

    if len(counts) < 2:
        return None
    chances = np.array(counts, np.float64)
    return constriction.stream.model.Categorical(chances / chances.sum(), perfect=False)


def _encoded(modules: Sequence[_Rounded], counts: Mapping[int, Sequence[int]]) -> bytes:
    import constriction

    coder = constriction.stream.queue.RangeEncoder()
    for one, side in _by_class(modules).items():
        if model := _model(counts[one]):
            coder.encode(np.concatenate(side) + np.int32(len(counts[one]) // 2), model)
    head = b"".join(x.step.tobytes() + x.lengths.tobytes() for x in modules)
    side_stream = zstandard.ZstdCompressor(19).compress(head)
    codes: bytes = coder.get_compressed().tobytes()
    return len(side_stream).to_bytes(4, "little") + side_stream + codes


def _decoded(
    data: bytes, sizes: Sequence[Sequence[int]], counts: Mapping[int, Sequence[int]]
) -> list[_Rounded]:
    """Return the modules from the bytes of a file.

    sizes: m, n and the number of parts of each module.
    """
    import constriction

    end = 4 + int.from_bytes(data[:4], "little")
    head = zstandard.ZstdDecompressor().decompress(data[4:end])
    modules, at = [], 0
    for m, n, k in sizes:
        step = np.frombuffer(head, np.float32, 1, at)[0]
        lengths = np.frombuffer(head, np.int8, k, at + 4)
        at += 4 + k
        modules.append(
            _Rounded(step, lengths, np.zeros((k, m), np.int32), np.zeros((k, n), np.int32))
        )
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, np.uint32, offset=end))
    for one, rows_of_class in _by_class(modules).items():
        if model := _model(counts[one]):
            values = decoder.decode(model, sum(map(len, rows_of_class)))
            values = values.astype(np.int32) - np.int32(len(counts[one]) // 2)
            edges = np.cumsum([len(row) for row in rows_of_class])[:-1]
            for row, part in zip(rows_of_class, np.split(values, edges), strict=True):
                row[:] = part
    return modules
