"""What is added has to be readable by its own bytes, whatever tasks the file comes to hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hydraopt import merge, open_bundle, read_adapters, verify_bundle
from hydraopt.errors import NumericalError
from hydraopt.merging import Limit, MergeOptions, add, finish
from hydraopt.merging.coder import Coder
from tests.conftest import write_adapter
from tests.raising import raises

PATHS = [f"model.layers.{i}.self_attn.{x}_proj" for i in range(2) for x in "qv"]
WIDE, COMMON = 1024, 3
DAY = "2026-03-01"


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Eight adapters of rank 1 in three directions: a task takes a few numbers of a wide module,
    and the bytes of hardly any."""
    rng = np.random.default_rng(0)
    shared = [(0.05 * rng.standard_normal((WIDE, COMMON)), rng.standard_normal((COMMON, WIDE)))] * 4
    made = []
    for name in "abcdefgh":
        modules = {
            path: (
                0.05 * b @ rng.standard_normal((COMMON, 1)),
                rng.standard_normal((1, COMMON)) @ a,
            )
            for path, (b, a) in zip(PATHS, shared, strict=True)
        }
        made.append(write_adapter(tmp_path / name, modules))
    return made


@pytest.fixture
def bundle(folders: list[Path], tmp_path: Path) -> Path:
    merge(folders[:7], tmp_path / "all.hydra.safetensors", error=0.2, workers=1)
    return tmp_path / "all.hydra.safetensors"


def test_a_coding_that_readers_would_refuse_is_made_finer(
    folders: list[Path], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = []
    solve = finish.solve_budget

    def noted(job, *more):
        strict.append(job.pieces.core.strict)
        return solve(job, *more)

    monkeypatch.setattr(finish, "solve_budget", noted)
    add(bundle, [folders[7]], limit=Limit(error=0.5), day=DAY, workers=1)
    assert strict == [False, True]  # the first is what this test is about
    assert verify_bundle(bundle, read_adapters(folders)).problems == []
    assert open_bundle(bundle)["h"].error <= 0.5


def test_where_no_size_is_readable_the_adapter_is_named(folders: list[Path], bundle: Path) -> None:
    (adapter,) = read_adapters(folders[7:])
    with raises(NumericalError, adapter="h"):
        Coder(open_bundle(bundle), MergeOptions(limit=Limit(size=300), workers=1)).encode(
            adapter, DAY
        )
