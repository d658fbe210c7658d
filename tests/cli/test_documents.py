"""README and the tutorial are executed: their commands, their Python, and what they show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"

pytestmark = pytest.mark.slow

HYDRAOPT = [sys.executable, "-c", "from hydraopt.cli.main import main; main()"]
_SHOWN = re.compile(r"^\$ hydraopt (.+)\n((?:(?!\$ |```).*\n)*)", re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def test_the_commands_run_in_order(workplace: Path) -> None:
    """And print the lines that the pages show, numbers and the width of tables aside."""
    blocks = [block for page in (TUTORIAL, README) for block in _SHOWN.findall(page.read_text())]
    assert len(blocks) >= 8
    printed: dict[str, set[str]] = {}
    for command, shown in blocks:
        if command not in printed:
            done = subprocess.run(
                [*HYDRAOPT, *command.split()],
                cwd=workplace,
                check=True,
                capture_output=True,
                text=True,
            )
            printed[command] = {_skeleton(line) for line in done.stdout.splitlines()}
        for line in shown.splitlines():
            if line.strip() not in ("", "..."):
                assert _skeleton(line) in printed[command], f"{command}: {line}"


def _skeleton(line: str) -> str:
    """Words alone: numbers may differ between machines by a little."""
    return " ".join(
        re.sub(r"[\d.,]+", "0", line).replace("\N{BOX DRAWINGS LIGHT HORIZONTAL}", "").split()
    )


@pytest.mark.parametrize("page", [README, TUTORIAL], ids=lambda page: page.stem)
def test_the_python_runs(page: Path, workplace: Path) -> None:
    (code,) = re.findall(r"^```python\n(.+?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    checks = "assert len(bundle) == 8\n"
    subprocess.run([sys.executable, "-c", code + checks], cwd=workplace, check=True)
    for folder in re.findall(r'save_pretrained\("([^"]+)"\)', code):
        assert (workplace / folder / "adapter_config.json").is_file()


def test_the_output_of_the_example_is_what_it_prints_today(tmp_path: Path) -> None:
    """Bytes and errors; linear algebra may differ between machines by a little."""
    text = README.read_text(encoding="utf-8")
    shown = text.partition("<!-- run.py -->")[2].partition("<!-- /run.py -->")[0]
    command = [sys.executable, ROOT / "examples" / "run.py", "--output", tmp_path / "x"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row = re.compile(r"^(\S+) +([\d,]+) +([\d,]+)(?: +(0\.\d+))?$", re.MULTILINE)
    printed = {name: numbers for name, *numbers in row.findall(done.stdout)}
    assert len(printed) == 9
    wanted = row.findall(shown)
    assert [name for name, *_ in wanted] == ["dates-de", "all"]
    for name, *old in wanted:
        for x, y in zip(old, printed[name], strict=True):
            if x:
                assert float(x.replace(",", "")) == pytest.approx(
                    float(y.replace(",", "")), rel=0.02
                ), f"{name}: run examples/run.py and paste its output into README.md"
