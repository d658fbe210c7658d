"""Fixtures of the adapter tests: a folder writer, and the shared real adapters."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from adapter_files import pack


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write an adapter folder and return it: save("fr", tensors, {"r": 2, ...})."""

    def write(
        folder: str,
        tensors: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        *,
        file: str = "adapter_model.safetensors",
        metadata: Mapping[str, str] | None = None,
    ) -> Path:
        where = tmp_path / folder
        where.mkdir(parents=True, exist_ok=True)
        (where / file).write_bytes(pack(tensors, metadata))
        if config is not None:
            (where / "adapter_config.json").write_text(json.dumps(config))
        return where

    return write


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real adapters, which is no part of the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared"
    root = Path(os.environ.get("HYDRAOPT_SHARED") or beside)
    if not (root / "data" / "adapters").is_dir():
        pytest.skip("the real adapters are not here; point HYDRAOPT_SHARED at their folder")
    return root / "data"
