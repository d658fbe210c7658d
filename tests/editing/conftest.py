"""Six adapters whose inputs are partly alike, and a collection of the first four."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from hydraopt import merge
from hydraopt.adapters import read_adapter
from tests.conftest import write_adapter
from tests.editing.living import Kind, kinds
from tests.marks import slow
from tests.merging.conftest import three
from tests.merging.merge_cases import modules_of
from tests.starting import near_start, started

__all__ = ["three"]

NAMES = ("a", "b", "c", "d", "e", "f")
HEAD = "base_model.model.head.weight"


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By name. b, d and f have a trained head; c and e the same integers, carried bit by bit.

    d is near an initial A.
    """
    folder = tmp_path_factory.mktemp("adapters")
    made = {}
    for seed, name in enumerate(NAMES):
        extras = {}
        if name in "bdf":
            rng = np.random.default_rng(seed)
            extras[HEAD] = (0.1 + 0.01 * rng.standard_normal((40, 24))).astype(np.float32)
        if name in "ce":
            extras["base_model.model.buffer"] = np.arange(200, dtype=np.int64)
        more = {"modules_to_save": ["head"]} if name in "bdf" else {}
        modules = near_start(modules_of(seed)) if name == "d" else modules_of(seed)
        made[name] = write_adapter(folder / name, modules, extras=extras, **more)
    return made


@pytest.fixture(scope="session")
def merged(adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a, b, c and d, merged to an error of 0.1; d is written over its initial A."""
    path = tmp_path_factory.mktemp("merged") / "four.hydra.safetensors"
    read = [read_adapter(adapters[name]) for name in "abcd"]
    merge([*read[:3], started(read[3])], path, error=0.1)
    return path


@pytest.fixture(
    params=[x if x.name == "file" else slow(x) for x in kinds()], ids=lambda kind: kind.name
)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of collection in turn."""
    kind: Kind = request.param
    return kind


@pytest.fixture
def four(kind: Kind, merged: Path, tmp_path: Path) -> Path:
    """A collection of a, b, c and d, of each kind, to be changed."""
    return kind.make(merged, tmp_path / "collection")


@pytest.fixture
def one_file(merged: Path, tmp_path: Path) -> Path:
    """A bundle of a, b, c and d, to be changed."""
    return Path(shutil.copy(merged, tmp_path / "four.hydra.safetensors"))
