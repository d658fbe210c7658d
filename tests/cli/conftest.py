"""Adapters and a bundle to run the verbs on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hydraopt.cli.main import cli
from tests.conftest import MakeAdapter

Run = Callable[..., Result]

TASKS = ("de", "en", "fr")
M, N, RANK = 48, 40, 4


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory, make_adapter: MakeAdapter) -> Path:
    """A folder of three adapters: 6 modules of two types, and a bias that has to be carried."""
    folder = tmp_path_factory.mktemp("adapters")
    start = np.random.default_rng(0).standard_normal((6, RANK, N))
    for i, name in enumerate(TASKS):
        rng = np.random.default_rng(i + 1)
        modules = {}
        for j in range(6):
            path = f"model.layers.{j // 2}.self_attn.{'qv'[j % 2]}_proj"
            a = start[j] + 0.3 * rng.standard_normal((RANK, N))
            b = rng.standard_normal((M, RANK)) * 2.0 ** -np.arange(RANK)
            modules[path] = (b, a)
        extras = {"base_model.model.score.weight": rng.standard_normal((2, N)).astype(np.float32)}
        make_adapter(
            folder / name,
            modules,
            extras=extras,
            alpha=8,
            modules_to_save=["score"],
            task_type="SEQ_CLS",
        )
    return folder


@pytest.fixture(scope="session")
def bundle(adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three merged to 30 % of their fp16 bytes."""
    from hydraopt.merging import merge

    path = tmp_path_factory.mktemp("bundle") / "three.hydra.safetensors"
    merge(adapters / "*", path, size="30%", workers=1)
    return path


@pytest.fixture
def run() -> Run:
    """Run ``hydraopt`` in this process with the given arguments."""

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(x) for x in arguments])

    return invoke
