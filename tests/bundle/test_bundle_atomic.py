"""Whenever the writer dies, the name stands for the old bundle or the new one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hydraopt.bundle import open_bundle, write_bundle
from hydraopt.bundle.container import write_atomically
from tests.bundle.bundles import tiny

# Alternates two large files under one name, as fast as it can, until it is killed.
_WRITER = """
import sys
from pathlib import Path
from hydraopt.bundle.container import write_atomically

print("ready", flush=True)
while True:
    for byte in (b"a", b"b"):
        write_atomically(Path(sys.argv[1]), [byte * (1 << 18)] * 8)
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    rng = np.random.default_rng(0)
    path.write_bytes(b"a" * (1 << 21))
    seen = set()
    for _ in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, env=os.environ
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.03)))
        writer.kill()
        writer.wait()
        writer.stdout.close()
        data = path.read_bytes()
        assert data in (b"a" * (1 << 21), b"b" * (1 << 21))
        seen.add(data[:1])
        for left in tmp_path.iterdir():
            assert left == path or left.name.startswith(".bundle.tmp-")
    assert seen == {b"a", b"b"}


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    parts = tiny()
    write_bundle(path, *parts.args)

    def broken() -> object:
        yield b"new"
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, broken())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [path]
    assert list(open_bundle(path)) == ["de", "en", "fr"]


def test_a_missing_folder_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path / "no" / "bundle", *tiny().args)
