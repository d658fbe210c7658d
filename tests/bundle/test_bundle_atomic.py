"""Whenever the writer dies, the name stands for the old bundle or the new one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Forks eight writers, one after another, which alternate two large files under one name until they
# are killed, and say when each is written; after each, what stands under the name is printed. It
# was another file, so each writer has come to write. A process of its own, because forking one that
# has threads is not safe, and one for all, because starting Python is slow.
_KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from hydraopt.files.writing import write_atomically

path, dice = Path(sys.argv[1]), random.Random(0)
for turn in range(8):
    path.write_bytes(b"c" * (1 << 21))
    ours, theirs = os.pipe()
    child = os.fork()
    while child == 0:
        for byte in (b"a", b"b"):
            write_atomically(path, [byte * (1 << 18)] * 8)
            os.write(theirs, byte)
    os.close(theirs)
    for _ in range(1 + turn % 3):
        assert os.read(ours, 1)
    os.close(ours)
    time.sleep(dice.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    data = path.read_bytes()
    print(len(data), bytes(sorted(set(data))).decode())
    left = [x.name for x in path.parent.iterdir() if x != path]
    assert all(x.startswith(f".{path.name}.tmp-") for x in left), left
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    done = subprocess.run(
        [sys.executable, "-c", _KILLER, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    seen = done.stdout.splitlines()
    assert len(seen) == 8
    assert set(seen) <= {f"{1 << 21} a", f"{1 << 21} b"}
