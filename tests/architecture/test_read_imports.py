"""Modules that a process loads to read a task: most of its time is spent on imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "bundle" / "golden"
READING = """
import sys
from hydraopt import open_bundle
bundle = open_bundle(sys.argv[1])
bundle[next(iter(bundle))].factors()
loaded = [name for name in sys.modules if name[0] != "_"]
tops = {name.partition(".")[0] for name in loaded}
print(*sorted(tops - set(sys.stdlib_module_names)))
print(*sorted({name.split(".")[1] for name in loaded if name.startswith("hydraopt.")}))
print(*sorted(tops & {"asyncio", "http", "logging", "random", "shutil", "subprocess", "tempfile"}))
"""
READS = "adapters bundle codec errors files notes"


def loaded(file: str) -> str:
    """Return what the script prints of a file, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", READING, file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reading_a_task_loads_little() -> None:
    file = str(GOLDEN / "second.hydra.safetensors")
    assert loaded(file).splitlines() == ["hydraopt lazy_loader numpy", READS, ""]
