"""Packages as rows: what they rebuilt is kept, so that it can be scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.quality.harness.building import Note, emptied, files_hash
from benchmarks.rivals.base import Compressor, Modules, relative_errors, tasks_of
from benchmarks.rivals.packages import ask_all
from benchmarks.rivals.registry import PACKAGES
from hydraopt.adapters import Adapter

__all__ = ["kept_peers", "peer_row", "peer_rows"]


def peer_rows(adapters: Sequence[Adapter], place: Path) -> Iterator[tuple[Compressor, Note]]:
    """Every package at each k, kept below ``place``; a failure has no files."""
    tasks = tasks_of(adapters)
    numbers = sum(adapter.numbers for adapter in adapters)
    for rival in ask_all(adapters):
        row = peer_row(rival.name, rival.setting)
        if rival.failed or not rival.factors:
            why = rival.failed or "it wrote no factors"
            yield row, {"method": rival.name, "setting": rival.setting, "failed": why}
            continue
        folder = place / row.label
        emptied(folder)
        folder.mkdir(parents=True)
        row.write(rival.factors, folder)
        errors = relative_errors(tasks, rival.factors)
        yield (
            row,
            {
                "method": rival.name,
                "setting": rival.setting,
                "bytes": rival.bytes,
                "size_pct": round(100 * rival.bytes / (2 * numbers), 4),
                "errors": {name: round(error, 6) for name, error in errors.items()},
                "merge_seconds": rival.seconds,
                "read_seconds": None,
                "peak_mib": None,
                "sha256": files_hash(folder),
            },
        )


def peer_row(name: str, setting: str) -> Compressor:
    """Rebuilt factors of a peer as they came, in float32; the bytes are those the peer wrote."""

    def write(tasks: Mapping[str, Modules], folder: Path) -> None:
        for task, modules in tasks.items():
            flat = {f"{p}.{s}": np.ascontiguousarray(x) for p, pair in modules.items()
                    for s, x in zip("BA", pair, strict=True)}  # fmt: skip
            save_file(flat, str(folder / f"{task}.safetensors"))

    def read(folder: Path, task: str) -> Modules:
        tensors = load_file(str(folder / f"{task}.safetensors"))
        paths = [key.removesuffix(".B") for key in tensors if key.endswith(".B")]
        return {path: (tensors[f"{path}.B"], tensors[f"{path}.A"]) for path in paths}

    return Compressor(name, setting.replace(",", ""), write, read)


def kept_peers(before: Mapping[str, Any], place: Path) -> Iterator[tuple[Compressor, Note]]:
    """What an earlier call with --peers found, as long as its files are there.

    before: the result of that call.
    """
    names = [rival.name for rival in PACKAGES]
    for label, note in {**before.get("methods", {}), **before.get("failures", {})}.items():
        if note["method"] in names and ("failed" in note or (place / label).is_dir()):
            yield peer_row(note["method"], note["setting"]), note
