"""A file of 30 KB that stands for all that its bytes warrant stays far below 100 MB."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hydraopt.adapters import RawTensor
from hydraopt.bundle import (
    Manifest,
    ModuleEntry,
    TaskEntry,
    open_bundle,
    pack_bundle,
    pack_carried,
    verify_bundle,
)
from hydraopt.bundle.peft.folder import export_peft
from hydraopt.codec import ChunkWriter, PartsRecord, Way, write_record
from hydraopt.codec.sides import Side
from hydraopt.codec.stream import quantise_block
from hydraopt.inspect import inspect_bundle
from tests.bundle.bundles import tiny
from tests.limited import run_limited

BYTES = 30_000
MEGABYTES = 100
SECONDS = 10
CONFIG = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": "all-linear"}


def use(path: Path) -> None:
    """Verify, inspect and export, as the commands do."""
    assert verify_bundle(path).ok
    inspect_bundle(path)
    bundle = open_bundle(path)
    for name in list(bundle)[:2]:
        export_peft(bundle[name], path.with_name(f"out-{name}"), overwrite=True)


def zeros(rows: int, columns: int) -> Side:
    block = quantise_block(np.zeros((rows, columns)))
    return Side(Way.EXPLICIT, None, block, block.values)


def noise(writer: ChunkWriter, numbers: int) -> None:
    """A record of a module 64 x N that takes bytes, so that others may stand for more."""
    block = quantise_block(np.random.default_rng(0).standard_normal((numbers, 1)) * 2e4)
    left = zeros(64, 1)
    right = Side(Way.EXPLICIT, None, block, block.values)
    write_record(writer, PartsRecord(left, right, np.zeros(1, np.int64)), False)
    writer.end_record(numbers + 64)


FILLER = 13_000
"""Numbers of two bytes each."""


def parts_of_zeros(path: Path) -> None:
    wide, k = 1 << 15, 64
    modules = (
        ModuleEntry("noise", "linear", 64, FILLER),
        ModuleEntry("zeros", "linear", wide, wide),
    )
    writer = ChunkWriter()
    noise(writer, FILLER)
    record = PartsRecord(zeros(wide, k), zeros(wide, k), np.zeros(k, np.int64))
    write_record(writer, record, False)
    writer.end_record(record.numbers)
    task = TaskEntry("a", 0, 0, modules=(0, 1), errors=(0.0, 0.0))
    manifest = Manifest(modules, (task,), configs=(CONFIG,))
    pack_bundle(manifest, b"", [writer.finish()], []).write(path)


def carried_zeros(path: Path) -> None:
    size = 20 << 20
    made = {"head.weight": RawTensor.from_numpy("head.weight", np.zeros(size, np.uint8))}
    carried = pack_carried({"de": made})
    parts = tiny(("de",), blobs=carried.blobs, data=carried.data, carried=(0,))
    parts.write(path)


def many_names(path: Path) -> None:
    """As many tasks with all modules as the entries allow."""
    count, tasks = 600, 210
    modules = tuple(ModuleEntry(f"m{i}", "linear", 1, 1) for i in range(count))
    writer = ChunkWriter()
    for _ in modules:
        write_record(writer, None, False)
        writer.end_record(0)
    one = TaskEntry("a", 0, 0, modules=tuple(range(count)), errors=(0.0,) * count)
    entries = tuple(dataclasses.replace(one, name=f"t{i:04}") for i in range(tasks))
    manifest = Manifest(modules, entries, configs=(CONFIG,))
    pack_bundle(manifest, b"", [writer.finish()], []).write(path)


CASES: dict[str, Callable[[Path], None]] = {
    x.__name__: x for x in (parts_of_zeros, carried_zeros, many_names)
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_stays_far_below(name: str, tmp_path: Path) -> None:
    sound, path = tmp_path / "sound", tmp_path / "hostile"
    tiny(("de",)).write(sound)
    CASES[name](path)
    assert path.stat().st_size < BYTES * 1.2
    assert run_limited(use, sound, path, MEGABYTES, SECONDS) == "done"
