"""What a reader of bundles does not load: giving a task back takes as long as its imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import slow

HEAVY = (
    "scipy", "torch", "transformers", "rich", "matplotlib", "regex", "logging",
    "hydraopt.cli.merging", "hydraopt.adapters.foreign", "hydraopt.adapters.factors",
    "hydraopt.export.gguf", "hydraopt.bundle.originals",
)  # fmt: skip

EXPORT = """
import sys
from hydraopt.cli.main import cli
try:
    cli(["export", *sys.argv[1:], "--force"])
except SystemExit as end:
    assert not end.code
"""
OPEN = """
import sys
import hydraopt
hydraopt.open_bundle(sys.argv[1])[sys.argv[2]].factors()
"""
SAY = f"print('heavy:', sorted(set({HEAVY!r}) & set(sys.modules)))"


@pytest.mark.parametrize("script", [EXPORT, slow(OPEN)])
def test_giving_a_task_back_loads_nothing_heavy(script: str, bundle: Path, tmp_path: Path) -> None:
    import hydraopt

    task = next(iter(hydraopt.open_bundle(bundle)))
    arguments = [str(bundle), task, *(["-o", str(tmp_path / "out")] if script is EXPORT else [])]
    command = [sys.executable, "-c", script + SAY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize("package", ["adapters", slow("export")])
def test_names_of_packages_load_when_asked_for(package: str) -> None:
    script = (
        f"import sys, hydraopt.{package} as p\n"
        "inner = [x for x in sys.modules if x.startswith(p.__name__ + '.')]\n"
        "assert not inner, inner\n"
        "for name in p.__all__:\n"
        "    assert getattr(p, name) is not None\n"
        "try:\n    p.nothing\n"
        "except AttributeError:\n    print('none')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "none\n"
