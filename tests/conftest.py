"""What all tests share: a writer of synthetic PEFT folders."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# The tests' matrices are small and a process runs on every core already: threads that wait for each
# other cost many times what they gain. Libraries read this when they are loaded; what the tests
# start has the same.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Keep bytecode even where the environment says not to: otherwise every worker rewrites the
# assertions of all tests, and every process that a test starts compiles the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from safetensors.numpy import save_file

sys.dont_write_bytecode = False

# Thousands of files are made, synced and removed, and waiting for a disk takes longer than most
# tests. pytest reads this when the first folder is asked for.
MEMORY = Path("/dev/shm")
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# The first example of a test may compile; examples are derandomised, so that a failure repeats.
# Here the first ones are tried, in .ci/run as many as hypothesis would.
settings.register_profile(
    "hydraopt",
    deadline=None,
    max_examples=100 if os.environ.get("CI") else 40,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("hydraopt")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without garbage collection, and exempt what was loaded from it.

    Tests and libraries are a million objects that stay until the end. Searching them for garbage
    takes a quarter of the collection, and seconds of the tests; afterwards garbage is rare.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_cards() -> Iterator[None]:
    """PEFT renders a model card of each adapter that it saves, which takes longer than to save it;
    no test reads one."""
    with pytest.MonkeyPatch.context() as patch:
        if "peft" in sys.modules:
            patch.setattr("peft.PeftModel.create_or_update_model_card", lambda *_: None)
        yield


class Logged(logging.Handler):
    """The records that reach the root logger."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def logged() -> Iterator[Logged]:
    """Collect log records; reset the level of the logger "hydraopt", which a test may set.

    pytest's own plugin is off: in each phase of each test it visits the loggers of all libraries,
    which takes longer than many tests.
    """
    handler = Logged()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)
    logging.getLogger("hydraopt").setLevel(logging.NOTSET)


Pair = tuple[NDArray[Any], NDArray[Any]]
MakeAdapter = Callable[..., Path]


def write_adapter(
    folder: Path,
    modules: Mapping[str, Pair],
    *,
    alpha: float | None = None,
    base: str = "org/tiny",
    dtype: Any = np.float32,
    extras: Mapping[str, NDArray[Any]] | None = None,
    **config: Any,
) -> Path:
    """A PEFT folder with these modules, (B, A) by path, stored without a scale.

    alpha: lora_alpha; default the rank, so that the scale is 1. Ranks may differ over modules.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, NDArray[Any]] = {}
    ranks = {}
    for path, (b, a) in modules.items():
        ranks[path] = a.shape[0]
        tensors[f"base_model.model.{path}.lora_A.weight"] = np.ascontiguousarray(a, dtype)
        tensors[f"base_model.model.{path}.lora_B.weight"] = np.ascontiguousarray(b, dtype)
    tensors |= {key: np.ascontiguousarray(value) for key, value in (extras or {}).items()}
    rank = next(iter(ranks.values()), 1)
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank if alpha is None else alpha,
        "base_model_name_or_path": base,
        "target_modules": sorted({path.rpartition(".")[2] for path in modules}),
    }
    other = {path: r for path, r in ranks.items() if r != rank}
    if other:
        settings["rank_pattern"] = other
        if alpha is None:
            settings["alpha_pattern"] = other
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **config}))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def make_adapter() -> MakeAdapter:
    """Write a PEFT folder: make_adapter(folder, {"h.0.q": (B, A)}, alpha=..., dtype=...)."""
    return write_adapter


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """Makes caches, one for each test: what one has left there changes no other, and of the user's
    the base models alone are used, for they take minutes to make."""
    # As zoo.bases has it, which loads torch.
    root = Path(os.environ.get("HYDRAOPT_CACHE") or Path.home() / ".cache" / "hydraopt")
    bases = root / "bases"
    with suppress(OSError):
        bases.mkdir(parents=True, exist_ok=True)
    made = itertools.count()

    def new() -> Path:
        folder = folders / str(next(made))
        folder.mkdir()
        if bases.is_dir():
            (folder / "bases").symlink_to(bases)
        return folder

    folders = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRAOPT_CACHE", str(new()))
        yield new


@pytest.fixture(autouse=True)
def own_cache(_caches: Callable[[], Path]) -> Iterator[Path]:
    """A cache of the test's own."""
    folder = _caches()
    # Not the test's own patches: these have to go before what removes its files.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRAOPT_CACHE", str(folder))
        yield folder
