"""Objects that are still alive when the process ends are released without a word.

Libraries such as transformers keep modules alive beyond the end of a script. Python then empties
the modules, the latest first, before it deletes objects that an earlier module still holds.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hydraopt.bundle import split
from tests.bundle.bundles import tiny
from tests.conftest import write_adapter

SCRIPT = """
import json, sys
import hydraopt

path, adapter = sys.argv[1:]
bundle = hydraopt.open_bundle(path)
bases, tasks = bundle.read_bases(), bundle.one_by_one()
print(len([next(bases), next(tasks), bundle["b"]]))
json.kept = [bundle, bundle["a"], bases, tasks, hydraopt.read_adapter(adapter)]
sys.kept = list(sys.modules.values())
"""


@pytest.mark.parametrize("parts", [False, True], ids=["file", "folder"])
def test_nothing_is_written_when_the_process_ends(parts: bool, tmp_path: Path) -> None:
    bundle = tmp_path / "tiny.hydra.safetensors"
    tiny(("a", "b")).write(bundle)
    if parts:
        split(bundle, tmp_path / "folder")
        bundle = tmp_path / "folder"
    pair = np.ones((5, 1)), np.ones((1, 4))
    adapter = write_adapter(tmp_path / "adapter", {"h.0.q": pair})
    command = [sys.executable, "-c", SCRIPT, bundle, adapter]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
