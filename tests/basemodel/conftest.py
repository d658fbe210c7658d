"""The small trained model and its task, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.small_model import sharp, tasks, trained

__all__ = ["sharp", "tasks", "trained"]


@pytest.fixture
def base(trained: Any, tmp_path: Path) -> Path:
    """The small model's folder."""
    for part in trained:
        part.save_pretrained(tmp_path / "base")
    return tmp_path / "base"
