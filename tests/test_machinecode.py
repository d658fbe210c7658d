"""Code that is kept and loaded without numba: where it lies, and what happens without it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hydraopt import machinecode
from hydraopt.compiled import INLINED
from hydraopt.machinecode import kept_in, machine_code

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="code is loaded so on Linux only")

MODULE = """
import ctypes, math, sys
from pathlib import Path
from hydraopt.compiled import INLINED
from hydraopt.machinecode import machine_code

def twice():
    import numba
    whole = numba.types.int64
    @numba.njit(**INLINED)
    def half(x):
        return x // 2
    @numba.cfunc(whole(whole), **INLINED)
    def twice(x):
        return 4 * half(x)
    return twice

def eighths():  # it has a constant, and calls the C library
    import numba
    @numba.cfunc(numba.types.int64(numba.types.float64), **INLINED)
    def eighths(x):
        return int(math.log2(x) * 8.25)
    return eighths

def call(make, kind, x):
    address = machine_code(make.__name__, (Path(__file__),), make)
    return ctypes.CFUNCTYPE(ctypes.c_int64, kind)(address)(x)

bare = call(twice, ctypes.c_int64, 22), "llvmlite" in sys.modules
print(*bare, call(eighths, ctypes.c_double, 16.0), "numba" in sys.modules)
"""


COMPILED, LOADED = "44 True 33 True\n", "44 False 33 False\n"
"""Outputs of the module: results, whether llvmlite was loaded for the first, and numba at all."""


def run(folder: Path, **settings: str) -> tuple[str, str]:
    """stdout and stderr of the module in a process of its own."""
    file = folder / "module.py"
    if not file.exists():
        file.write_text(MODULE)
    done = subprocess.run(
        [sys.executable, file], capture_output=True, text=True, env={**os.environ, **settings}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_the_second_process_loads_no_compiler(tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    assert run(tmp_path, NUMBA_CACHE_DIR=place) == (COMPILED, "")
    assert run(tmp_path, NUMBA_CACHE_DIR=place) == (LOADED, "")


@pytest.mark.slow
def test_damaged_code_is_made_anew(tmp_path: Path) -> None:
    place = tmp_path / "place"
    run(tmp_path, NUMBA_CACHE_DIR=str(place))
    (file,) = place.rglob("twice*.code")
    whole = file.read_bytes()
    for content in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:70], b""):
        file.write_bytes(content)
        assert run(tmp_path, NUMBA_CACHE_DIR=str(place)) == (COMPILED, "")
    assert file.read_bytes() == whole


@pytest.mark.slow
def test_another_source_is_other_code(tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    run(tmp_path, NUMBA_CACHE_DIR=place)
    (tmp_path / "module.py").write_text(MODULE.replace("4 * half", "6 * half"))
    assert run(tmp_path, NUMBA_CACHE_DIR=place) == (COMPILED.replace("44", "66"), "")


@pytest.mark.slow  # it compiles in a process of its own
def test_where_nothing_can_be_kept_it_is_compiled_and_said(tmp_path: Path) -> None:
    script = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        f"runpy.run_path({str(tmp_path / 'module.py')!r}, run_name='__main__')\n"
    )
    (tmp_path / "module.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "place")},
    )
    assert (done.returncode, done.stdout) == (0, COMPILED), done.stderr
    assert done.stderr == "note: compiled code could not be kept: File too large.\n"
    assert not list((tmp_path / "place").rglob("*.code"))
    assert len(list((tmp_path / "place" / "hydraopt").iterdir())) == 0  # nothing half written


def cfuncs(**options: Any) -> Any:
    def make() -> Any:
        import numba

        @numba.njit(**options)
        def checked(x):  # type: ignore[no-untyped-def]
            if x < 0:
                raise ValueError("below zero")
            return x

        @numba.cfunc(numba.types.int64(numba.types.int64), **options)
        def same(x):  # type: ignore[no-untyped-def]
            return checked(x)

        return same

    return make


def test_what_needs_numba_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert machine_code("same", (), cfuncs(**INLINED)) is None
    assert not list(tmp_path.rglob("*.code"))


def successor() -> Any:
    """Return the function that adds 1."""
    import numba

    return numba.cfunc(numba.types.int64(numba.types.int64))(lambda x: x + 1)


def test_where_the_system_forbids_new_code_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    found = machine_code("next", (), successor)
    assert found is not None
    assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(found)(4) == 5

    def mprotect(*_: int) -> int:
        return -1

    monkeypatch.setattr(machinecode.ctypes, "CDLL", lambda _: SimpleNamespace(mprotect=mprotect))
    assert machine_code("next", (), successor) is None


def test_without_a_home_folder_the_named_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other users may read what is kept there, if they may enter the folder."""

    def unknown(_: int) -> Any:
        raise KeyError("no such user")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert machine_code("next", (), successor) is not None
    (file,) = tmp_path.rglob("*.code")
    assert kept_in("next") == file.parent
    assert file.stat().st_mode & 0o777 == 0o644


def test_without_machine_code_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> Any:
        raise AssertionError

    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert machine_code("x", (), never) is None
    monkeypatch.delenv("NUMBA_DISABLE_JIT")
    monkeypatch.setattr(machinecode.sys, "platform", "win32")
    assert machine_code("x", (), never) is None
