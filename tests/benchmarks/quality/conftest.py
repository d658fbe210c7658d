"""One adapter of the small model and its task."""

from __future__ import annotations

import json
from pathlib import Path

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
