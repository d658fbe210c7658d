"""The command ``hydra``, built once for all tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hydraopt import merge

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "bundle" / "golden"
LAYOUTS = sorted(path.parent for path in GOLDEN.glob("layouts/*/bundle.hydra.safetensors"))

Run = Callable[..., subprocess.CompletedProcess[str]]


def compiler() -> str:
    """A C compiler; without one the test is skipped."""
    path = shutil.which("cc") or shutil.which("gcc")
    if path is None:
        pytest.skip("no C compiler on this machine")
    return path


FLAGS = [
    "-std=c99",
    "-O0",  # compiles in a third of the time; native/test runs all of this with -O2
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Werror",
]


def build(folder: Path, name: str, main: str) -> Path:
    """Return the program in ``folder``, built there once. main: the C files that are its own."""
    objects, made = folder / "objects", folder / name
    if not objects.is_dir():
        compiling = folder / "objects.part"
        compiling.mkdir()
        _compile(compiling, "-c", *sorted((ROOT / "native").glob("src/*/*.c")))
        compiling.rename(objects)
    if not made.exists():
        part = folder / f"{name}.part"
        own = sorted((ROOT / "native").glob(main))
        _compile(folder, "-o", part, *own, *objects.glob("*.o"), "-lm")
        part.rename(made)
    return made


def _compile(folder: Path, *words: object) -> None:
    include = ROOT / "native" / "include"
    done = subprocess.run(
        [compiler(), *FLAGS, "-I", include, *map(str, words)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def hydra(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the command; HYDRA_COMMAND names one that is built already."""
    if given := os.environ.get("HYDRA_COMMAND"):
        return given
    return _shared(tmp_path_factory, "hydra", "cli/*.c")


def _shared(tmp_path_factory: pytest.TempPathFactory, name: str, main: str) -> str:
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # one build for all workers
    with (folder / "native.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return str(build(folder, name, main))


@pytest.fixture(scope="session")
def conformance(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of native/tests/conformance.c, compiled, or of one beside HYDRA_COMMAND."""
    if given := os.environ.get("HYDRA_COMMAND"):
        return str(Path(given).with_name("hydra-conformance"))
    return _shared(tmp_path_factory, "hydra-conformance", "tests/conformance.c")


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of native/tests/api.c, compiled."""
    return _shared(tmp_path_factory, "hydra-api", "tests/api.c")


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of one of the examples, "numbers-de"."""
    path = tmp_path_factory.mktemp("numbers") / "numbers.hydra.safetensors"
    merge([ROOT / "examples" / "adapters" / "numbers-de"], path, max_error=0.6, workers=1)
    return path


@pytest.fixture(scope="session")
def run(hydra: str) -> Run:
    """Run the command; what it prints is in the result."""

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [hydra, *map(str, words)], capture_output=True, text=True, check=False, timeout=120
        )
        for sign in ("Sanitizer", "runtime error"):
            assert sign not in done.stderr, done.stderr
        assert done.returncode in (0, 1, 2), done.stderr
        return done

    return call
