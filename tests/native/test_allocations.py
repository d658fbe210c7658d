"""Every allocation fails once, for configs that are written anew: native/tests/api.c."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.native.test_configs import with_config

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ...},
        {"init_lora_weights": "orthogonal", "base_model_name_or_path": ...},
    ],
    ids=str,
)
def test_no_failed_allocation_is_overlooked(
    api: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(with_config(**changes))
    done = subprocess.run([api, tmp_path / "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
