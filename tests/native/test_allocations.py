"""Every allocation fails once, for configs that are written anew: native/tests/api.c."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.native.conftest import ROOT, compiler
from tests.native.test_configs import with_config

NATIVE = ROOT / "native"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("api") / "api"
    sources = [NATIVE / "tests" / "api.c", *sorted((NATIVE / "src").glob("*.c"))]
    flags = ["-std=c99", "-O0", "-Wall", "-Werror", "-I", NATIVE / "include"]
    subprocess.run([compiler(), *flags, "-o", made, *sources, "-lm"], check=True)
    return made


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ...},
        {"init_lora_weights": "orthogonal", "base_model_name_or_path": ...},
    ],
    ids=str,
)
def test_no_failed_allocation_is_overlooked(
    api: Path, changes: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(with_config(**changes))
    done = subprocess.run([api, tmp_path / "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
