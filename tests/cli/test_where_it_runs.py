"""The commands where little is theirs: another user, a tree that is read only, no home, no memory.

The other user may read everything and write nothing, as in a read-only container; it takes root to
become one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.marks import slow

SOURCE = Path(__file__).resolve().parents[2] / "src" / "hydraopt"
NOBODY = 54321  # no user of that number: no home folder either
CAPABILITIES = "-all,+dac_read_search"  # the interpreter may lie in a home folder that is closed
BECOME = [
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    f"--inh-caps={CAPABILITIES}",
    f"--ambient-caps={CAPABILITIES}",
    f"--bounding-set={CAPABILITIES}",
]
FEW_FILES = ("sh", "-c", 'ulimit -n 32; exec "$@"', "sh")


def _can_become() -> bool:
    if not hasattr(os, "geteuid") or os.geteuid() or not shutil.which("setpriv"):
        return False
    tried = subprocess.run([*BECOME, sys.executable, "-c", ""], capture_output=True)
    return tried.returncode == 0


needs_root = pytest.mark.skipif(not _can_become(), reason="only root can become another user")


@pytest.fixture
def elsewhere(adapters: Path) -> Iterator[Path]:
    """A folder that is open: "src" is read only, "adapters" as well, "work" is the other user's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(
            SOURCE, folder / "src" / "hydraopt", ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copytree(adapters, folder / "adapters")
        (folder / "work" / "tmp").mkdir(parents=True)
        for path in (folder / "work", folder / "work" / "tmp"):
            os.chown(path, NOBODY, NOBODY)
        yield folder


def run_as_another(elsewhere: Path, *arguments: object) -> str:
    """stderr of the command, which has no HOME and 32 open files at most, and must succeed."""
    keep = {"PATH", "LANG", "LD_LIBRARY_PATH"}
    settings = {name: value for name, value in os.environ.items() if name in keep}
    settings["PYTHONPATH"] = str(elsewhere / "src")
    settings["TMPDIR"] = str(elsewhere / "work" / "tmp")
    done = subprocess.run(
        [*BECOME, *FEW_FILES, sys.executable, "-m", "hydraopt", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=elsewhere / "work",
        env=settings,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
@needs_root
def test_another_user_on_a_read_only_tree(elsewhere: Path) -> None:
    work, adapters = elsewhere / "work", sorted((elsewhere / "adapters").iterdir())
    cache = work / "tmp" / f"hydraopt-{NOBODY}"
    verbs = (
        ("merge", *adapters, "--error", "0.1", "-o", work / "b"),
        ("inspect", *adapters),
        ("inspect", work / "b"),
        ("verify", work / "b", *adapters),
        ("export", work / "b", "--all", "-o", work / "out"),
        ("shrink", work / "b", "--size", "20%", "-o", work / "small"),
    )
    for arguments in verbs:
        said = run_as_another(elsewhere, *arguments)
        # On a slow machine work says where it is, half a minute after it began.
        lines = [x for x in said.splitlines() if not re.search(r": \d+ of \d+(, .* left)?$", x)]
        assert len(lines) == 1, said
        assert said.startswith(f"note: compiled code is kept in {cache}."), arguments
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.code")}
    assert kept
    run_as_another(elsewhere, "verify", work / "b")
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.code")} == kept
    # Without a home, "~" would be a folder of whoever owns the current one.
    assert sorted(path.name for path in work.iterdir()) == ["b", "out", "small", "tmp"]
    assert not list((elsewhere / "src").rglob("__pycache__"))


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
