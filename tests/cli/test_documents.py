"""README is executed: its commands, its Python, and the output that it shows of examples/run.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.slow

HYDRAOPT = [sys.executable, "-c", "from hydraopt.cli.main import main; main()"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def test_the_commands_run_in_order(workplace: Path) -> None:
    commands = re.findall(r"^\$ hydraopt (.+)$", README, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        subprocess.run([*HYDRAOPT, *command.split()], cwd=workplace, check=True)


def test_the_python_runs(workplace: Path) -> None:
    (code,) = re.findall(r"^```python\n(.+?)^```$", README, re.MULTILINE | re.DOTALL)
    checks = "assert len(bundle) == 8 and weights\n"
    subprocess.run([sys.executable, "-c", code + checks], cwd=workplace, check=True)
    assert (workplace / "numbers-de-2" / "adapter_config.json").is_file()


def test_the_output_of_the_example_is_what_it_prints_today(tmp_path: Path) -> None:
    """Bytes and errors; linear algebra may differ between machines by a little."""
    shown = README.partition("<!-- run.py -->")[2].partition("<!-- /run.py -->")[0]
    command = [sys.executable, ROOT / "examples" / "run.py", "--output", tmp_path / "x"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row = re.compile(r"^(\S+) +([\d,]+) +([\d,]+)(?: +(0\.\d+))?$", re.MULTILINE)
    wanted, printed = row.findall(shown), row.findall(done.stdout)
    assert len(wanted) == 9
    for (name, *old), (same_name, *new) in zip(wanted, printed, strict=True):
        assert name == same_name
        for x, y in zip(old, new, strict=True):
            if x:
                assert float(x.replace(",", "")) == pytest.approx(
                    float(y.replace(",", "")), rel=0.02
                ), f"{name}: run examples/run.py and paste its output into README.md"
