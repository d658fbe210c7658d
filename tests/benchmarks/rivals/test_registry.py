"""A rival is a file and a row, and each has what the other says."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common import ROOT
from benchmarks.rivals import registry
from benchmarks.rivals.base import Compressor
from benchmarks.rivals.registry import RIVALS, TOOLS, SetShape, requirements, rows_of

FOLDER = ROOT / "benchmarks" / "rivals"
SHARED = {
    "__init__",
    "__main__",
    "base",
    "bundles",
    "compare",
    "environments",
    "numbers",
    "registry",
    "stored",
    "taught",
    "tool",
}
"""What rivals are made of; everything else in the folder is one."""


def test_every_file_has_a_row_and_every_row_a_file() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - SHARED
    assert files == {rival.name for rival in RIVALS}


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_a_file_has_what_its_row_says(rival) -> None:
    if rival.name == "peft_svd":
        pytest.importorskip("peft")
    with_module = importlib.import_module(rival.module)
    assert hasattr(with_module, "rows") == rival.rows
    assert hasattr(with_module, "tool") == bool(rival.tools)
    assert rival.what
    if rival.rows:
        # Few tasks may leave nothing between one adapter and one for each.
        found = with_module.rows(SetShape(40, 8))
        assert found
        assert all(isinstance(row, Compressor) for row in found)
    assert rival.rows or rival.package or rival.tools


def test_packages_are_pinned_and_others_have_none() -> None:
    assert all(requirements(rival.name)[0].count("==") == 1 for rival in RIVALS if rival.package)
    with pytest.raises(ValueError, match="svd"):
        requirements("svd")
    assert {"lorashare", "vlora", "vlora fp32", "peft svd", "mergekit extract"} == set(TOOLS)


def test_what_runs_inside_an_environment_needs_no_hydraopt(tmp_path: Path) -> None:
    # There the package is installed and ours is not.
    names = ["registry", "tool", "lorashare", "vlora"]
    code = "import sys; sys.modules['hydraopt'] = sys.modules['numba'] = None\n"
    code += "".join(f"import benchmarks.rivals.{name}\n" for name in names)
    code += "import benchmarks.speed.child_tool\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_toy_rival_is_a_row_more(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = registry.Rival("group", "toy", rows=True)
    monkeypatch.setattr(registry, "RIVALS", (toy,))
    assert {row.method for row in rows_of(SetShape(4, 4))} == {"group"}
