"""Factors of a task in the form of other tools' files, without unnecessary rounding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hydraopt.adapters.formats import read_again
from hydraopt.adapters.model import Format, LowRankModule
from hydraopt.adapters.rawtensor import RawTensor, TensorFile
from hydraopt.bundle.peft.layout import balanced, check_numbers
from hydraopt.bundle.peft.tensors import dtype_named, holds
from hydraopt.bundle.spec import ModuleEntry
from hydraopt.bundle.task import TaskAdapter
from hydraopt.linalg.shapes import Array

__all__ = ["Stored", "check_padded", "kept_file", "stored_modules"]


@dataclass(frozen=True)
class Stored:
    """Module in the form of a file: ``dW = scale * b @ a``.

    a (r, n), b (m, r): float64, r at least 1.
    dtypes: dtypes of a and b in the file.
    """

    module: ModuleEntry
    a: Array
    b: Array
    scale: float
    dtypes: tuple[str, str]

    @property
    def path(self) -> str:
        return self.module.path

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    def folded(self) -> Stored:
        """Return a copy with the scale inside b, rounded to float32 as readers round it.

        A product that b's dtype cannot hold exactly is stored as F32, so nothing is lost.
        """
        if self.scale == 1:
            return self
        with np.errstate(over="ignore"):
            b = (self.b * self.scale).astype(np.float32).astype(np.float64)
        dtype = self.dtypes[1] if holds(b, self.dtypes[1]) else "F32"
        return replace(self, b=b, scale=1.0, dtypes=(self.dtypes[0], dtype))

    def padded(self, rank: int) -> Stored:
        """Return a copy padded with zeros up to ``rank``, which change no product."""
        more = rank - self.rank
        a, b = np.pad(self.a, ((0, more), (0, 0))), np.pad(self.b, ((0, 0), (0, more)))
        return replace(self, a=a, b=b)

    def kernels(self) -> tuple[Array, Array]:
        """Return (a, b) with the axes of a convolution: (r, in, kh, kw) and (m, r, 1, 1)."""
        tail = self.module.a_tail
        a = self.a.reshape(self.rank, self.module.n // math.prod(tail), *tail)
        return a, self.b.reshape(*self.b.shape, *(1 for _ in tail))


def stored_modules(task: TaskAdapter, dtype: str) -> list[Stored]:
    """Return the task's modules by path. Rule out fused or stacked layers before.

    dtype: as in :func:`hydraopt.export.export_peft`. With "same", a lossless task has the numbers
    of the original in the original's types, and its scales; all else has scale 1. F64, in which
    none of these tools computes, becomes F32, to which our own reader rounds it. Raises ExportError
    for modules that would be far larger than the bundle warrants.
    """
    named = _computed(dtype_named(dtype, task.entry.dtype))
    if task.original is not None and dtype == "same":
        return [_as_it_was(module) for _, module in sorted(task.original.modules.items())]
    factors, result = task.factors(), []
    least = ((max(factors[path].A.shape[0], 1), x) for path, x in task.modules.items())
    check_numbers(task, sum(rank * (x.m + x.n) for rank, x in least))
    for path, module in sorted(task.modules.items()):
        own = balanced(factors[path])
        # No file holds rank 0: a module that was left without parts gets one of zeros.
        result.append(
            Stored(module, own.A, own.B, 1.0, (named, named)).padded(max(own.A.shape[0], 1))
        )
    return result


def check_padded(task: TaskAdapter, modules: Iterable[Stored], rank: int) -> None:
    """Raise ExportError if ``modules`` of that rank would be far larger than the bundle is."""
    check_numbers(task, rank * sum(x.module.m + x.module.n for x in modules))


def kept_file(
    task: TaskAdapter, file_format: Format, dtype: str
) -> tuple[Mapping[str, RawTensor], Mapping[str, str]] | None:
    """Return (tensors, metadata) of a lossless task of that format, which is written as it was.

    None for any other, for another dtype than "same", and where the caller of the merge gave an
    alpha that the file does not hold.
    """
    if task.original is None or task.entry.format != file_format or dtype != "same":
        return None
    origin = task.config.get("hydraopt")
    given = origin.get("metadata") if isinstance(origin, Mapping) else None
    texts = given.items() if isinstance(given, Mapping) else ()
    metadata = {k: x for k, x in texts if isinstance(x, str)} | dict(task.entry.metadata)
    file = TensorFile(task.bundle.path, task.tensors, metadata)
    again = {x.path: x.scale for x in read_again(file_format, file, task.config).modules}
    if again != {path: x.scale for path, x in task.original.modules.items()}:
        return None
    # Hashes of a file's bytes hold for that file alone.
    return task.tensors, {k: x for k, x in metadata.items() if not k.startswith("sshs_")}


def _as_it_was(module: LowRankModule) -> Stored:
    b, a = (x.astype(np.float64) for x in replace(module, scale=1.0).factors())
    dtypes = _computed(module.a.dtype), _computed(module.b.dtype)
    if module.between is not None and not holds(a, dtypes[0]):
        dtypes = ("F32", dtypes[1])  # AdaLoRA's values times A: products, which underflow 16 bits
    return Stored(ModuleEntry.of(module), a, b, module.scale, dtypes)


def _computed(dtype: str) -> str:
    # bfloat16 holds every 8-bit float, and no tool computes in these or in 64 bits.
    return {"F64": "F32", "F8_E4M3": "BF16", "F8_E5M2": "BF16"}.get(dtype, dtype)
