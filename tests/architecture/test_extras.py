"""Each extra can be installed without a long search through versions."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from tools.lock import ROOT, bounds

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = sorted(PROJECT["optional-dependencies"])
MOST = 40
"""Versions of one package that pip looks at. A search that went astray looks at hundreds."""
LOOKED_AT = re.compile(r"(?:Downloading|Using cached) (?:\S+/)?([A-Za-z0-9_.]+)-(\d[\w.]*)[-.]")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an empty environment with pip."""
    folder = tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["dev", "remote"])  # those that bring s3fs
def test_pip_looks_at_few_versions(extra: str, python: Path) -> None:
    wanted = [name + versions for name, versions in bounds(extra)]
    command = [str(python), "-m", "pip", "install", "--dry-run", "--ignore-installed", "--verbose"]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    versions = defaultdict(set)
    for name, version in LOOKED_AT.findall(done.stdout):
        versions[name].add(version)
    assert {name: len(held) for name, held in versions.items() if len(held) > MOST} == {}


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_s3fs_brings_is_bounded_wherever_s3fs_is(extra: str) -> None:
    """Each release of aiobotocore takes a few of botocore's: without a bound pip tries them all."""
    names = {name for name, _ in bounds(extra)}
    assert "s3fs" not in names or "aiobotocore" in names
