"""The commands where little is theirs: another user, a tree that is read only, no home, no memory.

The other user may read everything and write nothing, as in a read-only container; it takes root to
become one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import slow


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize(
    ("verb", "mebibytes"),
    [
        ("inspect", 100), ("verify", 600), slow("inspect", 400), slow("inspect", 600),
        slow("verify", 100), slow("verify", 400),
    ],
)  # fmt: skip
def test_too_little_memory_is_one_line(verb: str, mebibytes: int, bundle: Path) -> None:
    line = f'ulimit -v {mebibytes << 10}; exec "$@"'
    command = [sys.executable, "-m", "hydraopt", verb, str(bundle)]
    done = subprocess.run(
        ["bash", "-c", line, "bash", *command],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: the limit of this process's memory (ulimit -v)")
    assert done.stderr.count("\n") == 1
