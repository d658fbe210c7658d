"""One adapter of the small model and its task."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hydraopt.adapters import read_adapters
from tests.small_model import ROWS

PATH = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def splits(tasks: Path) -> Path:
    """The rows of the small task in two other splits as well, one of them shorter."""
    lines = [json.dumps(row) + "\n" for row in ROWS]
    (tasks / "spell" / "en" / "train.jsonl").write_text("".join(lines[:8]))
    (tasks / "spell" / "en" / "validation.jsonl").write_text("".join(lines[5:]))
    return tasks


@pytest.fixture
def adapters(make_adapter, tmp_path: Path):
    rng = np.random.default_rng(0)
    pair = 0.1 * rng.standard_normal((32, 4)), rng.standard_normal((4, 32))
    return read_adapters([make_adapter(tmp_path / "spell-en", {PATH: pair})])


@pytest.fixture
def as_small_set(trained: Any, adapters: Any, tmp_path: Path, monkeypatch: Any) -> Any:
    """Lets a module with a command measure the small adapter as its set."""

    def patch(module: ModuleType) -> None:
        monkeypatch.setattr(module, "ROOT", tmp_path, raising=False)
        monkeypatch.setattr(module, "original_adapters", lambda _: list(adapters))
        monkeypatch.setattr(module, "read_recipe", lambda _: SimpleNamespace(base="small"))
        monkeypatch.setattr(module, "base_folder", lambda _: tmp_path)
        monkeypatch.setattr(module, "load_model", lambda _: trained)

    return patch
