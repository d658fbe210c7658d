"""The command takes a time that grows as the file does, and no faster."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from hydraopt.adapters import RawTensor
from hydraopt.bundle import Manifest, ModuleEntry, TaskEntry, pack_bundle, pack_carried
from hydraopt.bundle.entries import KeptRanks
from hydraopt.codec import ChunkWriter, write_record
from tests.native.conftest import Run

MOST = 3.0  # seconds of a processor, where a fraction of one is expected


def fragments(path: Path) -> None:
    """Second factors alone of 6000 products: as many ranges of modules."""
    modules = tuple(
        ModuleEntry(f"a{i // 2}::w{i % 2 + 1}.1x1", "linear", 1, 1, "factor", i % 2, 2)
        for i in range(12000)
    )
    own, stream = tuple(range(1, 12000, 2)), ChunkWriter()
    for _ in own:
        write_record(stream, None, False)
        stream.end_record(0)
    config = {"peft_type": "LOKR", "r": 1, "alpha": 1, "target_modules": "all-linear"}
    task = TaskEntry("a", 0, 0, modules=own, errors=len(own) * (0.0,), ranks=KeptRanks(1, 1.0))
    manifest = Manifest(modules, (task,), configs=(config,))
    pack_bundle(manifest, b"", [stream.finish()], []).write(path)


def items(path: Path) -> None:
    """A blob of 60000 tensors."""
    one = np.zeros(1, np.uint8)
    tensors = {key: RawTensor.from_numpy(key, one) for key in map(str, range(60000))}
    carried = pack_carried({"a": tensors})
    task = TaskEntry("a", 0, None, carried=carried.tasks["a"])
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
    manifest = Manifest((), (task,), blobs=tuple(carried.blobs), configs=(config,))
    pack_bundle(manifest, b"", [], list(carried.data)).write(path)


@pytest.mark.parametrize("make", [fragments, pytest.param(items, marks=pytest.mark.slow)])
def test_time_grows_as_the_file_does(run: Run, make: object, tmp_path: Path) -> None:
    make(tmp_path / "x")  # type: ignore[operator]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = run("extract", tmp_path / "x", "a", "-o", tmp_path / "y")
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < MOST
