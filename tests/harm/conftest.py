"""The small trained model, two adapters of it with prompts, and commands on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hydraopt.cli.main import cli
from tests.basemodel.conftest import base
from tests.harm.power_judge import adapters
from tests.small_model import sharp, tasks, trained

__all__ = ["PATHS", "adapters", "base", "call", "place", "sharp", "tasks", "trained"]

PATHS = [f"model.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in "qo"]


@pytest.fixture
def place(trained, make_adapter, tmp_path: Path, monkeypatch) -> Path:
    for part in trained:
        part.save_pretrained(tmp_path / "base")
    (tmp_path / "prompts").mkdir()
    for seed, name in enumerate(("en", "fr")):
        rng = np.random.default_rng(seed)
        modules = {
            p: (0.2 * rng.standard_normal((32, 3)), rng.standard_normal((3, 32))) for p in PATHS
        }
        make_adapter(tmp_path / "adapters" / name, modules)
        lines = "".join(json.dumps(f"Spell.\n{i}\n=>") + "\n" for i in range(12))
        (tmp_path / "prompts" / f"{name}.jsonl").write_text(lines)
    return tmp_path


def call(place: Path, *more: str, verb: str = "merge"):
    inputs = [str(place / "adapters" / name) for name in ("en", "fr")]
    options = ["--base", str(place / "base"), "--prompts", str(place / "prompts")]
    return CliRunner().invoke(cli, [verb, *inputs, *options, *more])
