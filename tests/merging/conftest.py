"""Three adapters whose inputs are partly alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.merging.merge_cases import modules_of


@pytest.fixture
def three(make_adapter: Callable[..., Path], tmp_path: Path) -> list[Path]:
    return [make_adapter(tmp_path / name, modules_of(i)) for i, name in enumerate(("a", "b", "c"))]
