"""Compare the tasks of a bundle with fp16 adapter files: disk, reads, memory."""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.speed.footprint import (
    disk_bytes,
    forget,
    growth,
    limited,
    peak_bytes,
    start_peak,
)
from benchmarks.speed.frame import frame_of
from hydraopt.bundle.task import TaskAdapter
from hydraopt.collection.opening import open_bundle
from hydraopt.progress import Progress
from hydraopt.runtime.attached import attach

__all__ = ["compare", "in_fresh_process", "with_threads", "write_like"]

Measured = dict[str, Any]
Made = TypeVar("Made")


def compare(
    path: Path,
    names: Sequence[str],
    counts: Sequence[int],
    dtype: torch.dtype,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[Measured]:
    """Return two rows for each count of tasks, ``way`` "bundle" and "files".

    names: tasks that can be attached; the first ``count`` of them are used, one after the other.
    Each row is measured in a process of its own, so that memory is its own: ``files``, and in
    bytes ``file_bytes`` (of these files, whole), ``read_bytes`` (what it took to use all of the
    tasks once), ``switch_bytes`` and ``disk_bytes`` (of a switch to a task that is not in memory:
    read, and fetched by the system from the disk), ``held_bytes`` (tensors at the end, in
    ``dtype``) and ``peak_bytes`` (growth of the resident memory at its peak); ``cold_seconds`` of
    such a switch, its file dropped from memory before, and ``warm_seconds`` of one to a task that
    is there. Switch figures are medians over the tasks. None where the system does not tell; going
    from one loaded file's tensors to another's takes no time.

    The separate files are made up, each as large as the adapter that was merged.
    """
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = open_bundle(path)
        files = [
            write_like(bundle[name], Path(folder) / f"{i}.safetensors")
            for i, name in enumerate(names[: max(counts)])
        ]
        for i, count in enumerate(counts):
            if progress is not None:
                progress("compare", i, len(counts))
            rows.append(in_fresh_process(_use_bundle, threads, path, list(names[:count]), dtype))
            rows.append(in_fresh_process(_use_files, threads, files[:count], dtype))
    return rows


def write_like(task: TaskAdapter, path: Path) -> Path:
    """Write a safetensors file of fp16 pairs with as many numbers as the original.

    Pairs are B (m, r), A (r, n). The manifest knows how many numbers the original had, not its
    ranks: r is alike in all modules. The values are random; only sizes matter here.
    """
    sides = sum(x.m + x.n for x in task.modules.values())
    rank = max(1, round(task.entry.numbers / max(sides, 1)))
    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for name, x in task.modules.items():
        tensors[f"{name}.lora_B.weight"] = torch.randn(x.m, rank, generator=rng).half()
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, x.n, generator=rng).half()
    save_file(tensors, path)
    return path


def in_fresh_process(measure: Callable[..., Measured], threads: int, *arguments: Any) -> Measured:
    """Return the row, measured in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(with_threads, measure, threads, *arguments).result()


def with_threads(measure: Callable[..., Measured], threads: int, *arguments: Any) -> Measured:
    """Return the row, measured with so many threads."""
    with limited(threads):
        return measure(*arguments)


def _use_bundle(path: Path, names: Sequence[str], dtype: torch.dtype) -> Measured:
    host = frame_of(open_bundle(path), dtype)
    with attach(host, path) as attached:  # loads compiled code
        attached.set_task(names[0])
    before = start_peak()
    with attach(host, path) as attached:
        start = attached.stats.bytes_read
        switches = []
        for name in names:
            read = attached.stats.bytes_read
            _, seconds, fetched = _timed(partial(attached.set_task, name), path)
            switches.append((seconds, attached.stats.bytes_read - read, fetched))
        memory = attached.memory()
        peak = peak_bytes()
        warm = []
        for kept in (names[-2] if len(names) > 1 else None, names[-1]) * 5:
            attached.set_task(kept)
            warm.append(attached.stats.switch_seconds)
        held = memory.shared + memory.cached + memory.active
        read = start + sum(read for _, read, _ in switches)
    sizes = (1, path.stat().st_size, read, held, growth(before, peak))
    return _row("bundle", len(names), sizes, switches, median(warm))


def _use_files(files: Sequence[Path], dtype: torch.dtype) -> Measured:
    _load(files[0], dtype)
    gc.collect()
    before = start_peak()
    kept, switches = [], []
    for file in files:
        tensors, seconds, fetched = _timed(partial(_load, file, dtype), file)
        kept.append(tensors)
        switches.append((seconds, file.stat().st_size, fetched))
    peak = peak_bytes()
    held = sum(x.numel() * x.element_size() for tensors in kept for x in tensors.values())
    size = sum(file.stat().st_size for file in files)
    sizes = (len(files), size, size, held, growth(before, peak))
    return _row("files", len(files), sizes, switches, None)


def _load(file: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the tensors, whose every byte is read: the file itself is mapped, not read."""
    with safe_open(file, "pt") as tensors:
        return {key: tensors.get_tensor(key).to(dtype, copy=True) for key in tensors.keys()}  # noqa: SIM118


def _timed(run: Callable[[], Made], file: Path) -> tuple[Made, float, int | None]:
    """Return what it makes, its seconds with the file not in memory, what the system fetched."""
    forget(file)
    on_disk, started = disk_bytes(), time.perf_counter()
    made = run()
    seconds, after = time.perf_counter() - started, disk_bytes()
    return made, seconds, None if on_disk is None or after is None else after - on_disk


def _row(
    way: str,
    tasks: int,
    sizes: tuple[int, int, int, int, int | None],
    switches: Sequence[tuple[float, int, int | None]],
    warm: float | None,
) -> Measured:
    files, size, read, held, peak = sizes
    fetched = [x for _, _, x in switches if x is not None]
    return {
        "tasks": tasks,
        "way": way,
        "files": files,
        "file_bytes": size,
        "read_bytes": read,
        "switch_bytes": round(median(x for _, x, _ in switches)),
        "disk_bytes": round(median(fetched)) if fetched else None,
        "cold_seconds": round(median(x for x, _, _ in switches), 6),
        "warm_seconds": None if warm is None else round(warm, 6),
        "held_bytes": held,
        "peak_bytes": peak,
    }
