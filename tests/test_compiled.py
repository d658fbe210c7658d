"""Where compiled code is kept, and that nothing fails for want of such a place."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydraopt import compiled
from hydraopt.errors import MemoryLimitError
from tests.conftest import Logged

MODULE = """
from hydraopt.compiled import njit

@njit(cache=True, nogil=True)
def twice(x):
    return 2 * x

if __name__ == "__main__":
    print(twice(21))
    print(*sorted(map(str, twice.stats.cache_hits.values())))
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, and a memory that has said nothing yet."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    compiled.private_folder.cache_clear()
    yield folder
    compiled.private_folder.cache_clear()


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


def test_the_folder_is_private_and_said_once(temporary: Path, logged: Logged) -> None:
    folder = compiled.private_folder()
    assert folder == temporary / f"hydraopt-{os.geteuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert compiled.private_folder() == folder
    assert len(logged.messages) == 1
    assert str(folder) in logged.messages[0]
    compiled.private_folder.cache_clear()
    assert compiled.private_folder() == folder  # the next process takes it again


@pytest.mark.parametrize("bad", ["open to others", "a link", "a file", "another's"])
def test_a_folder_of_unknown_hands_is_not_used(bad: str, temporary: Path) -> None:
    planted = temporary / f"hydraopt-{os.geteuid()}"
    if bad == "a link":
        (temporary / "elsewhere").mkdir(mode=0o700)
        planted.symlink_to("elsewhere")
    elif bad == "a file":
        planted.write_text("")
    else:
        planted.mkdir(mode=0o700)
    if bad == "open to others":
        planted.chmod(0o770)
    if bad == "another's":
        if os.geteuid():
            pytest.skip("only root can give a folder away")
        os.chown(planted, 65534, 65534)
    folder = compiled.private_folder()
    assert folder is not None
    assert folder != planted
    assert folder.parent == temporary
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_there_is_no_safe_place_where_others_may_rename(temporary: Path, logged: Logged) -> None:
    temporary.chmod(0o777)
    assert compiled.private_folder() is None
    assert "compiles anew" in logged.messages[0]
    compiled.private_folder.cache_clear()
    temporary.chmod(0o1777)  # sticky, as the system's own is
    assert compiled.private_folder() is not None


@pytest.mark.slow
def test_without_any_place_functions_compile_all_the_same(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary.chmod(0o777)
    monkeypatch.setattr(compiled, "own_place", lambda: False)

    @compiled.njit(cache=True)
    def twice(x: int) -> int:
        return 2 * x

    assert twice(21) == 42
    assert twice.stats.cache_path is None  # type: ignore[attr-defined]


def test_the_place_of_other_code_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba import config

    before = config.CACHE_DIR
    monkeypatch.setattr(compiled, "own_place", lambda: False)
    made = compiled.njit(cache=True)(_thrice)
    assert str(temporary) in made.stats.cache_path
    assert before == config.CACHE_DIR


def _thrice(x: int) -> int:
    return 3 * x


@pytest.mark.slow
def test_numbas_own_place_comes_first(tmp_path: Path) -> None:
    place = tmp_path / "place"
    for hits in ("", "1"):
        assert run(tmp_path, NUMBA_CACHE_DIR=str(place)) == (f"42\n{hits}\n", "")
    assert list(place.rglob("*.nbi"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_cache_is_made_anew(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    run(tmp_path, NUMBA_CACHE_DIR=str(place))
    for file in place.rglob(f"*.{kind}"):
        file.write_bytes(file.read_bytes()[:40])
    assert run(tmp_path, NUMBA_CACHE_DIR=str(place)) == ("42\n\n", "")
    assert run(tmp_path, NUMBA_CACHE_DIR=str(place)) == ("42\n1\n", "")


@pytest.mark.slow
def test_a_full_disk_only_costs_the_cache(tmp_path: Path) -> None:
    script = (
        f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        f"runpy.run_path({str(tmp_path / 'module.py')!r}, run_name='__main__')\n"
    )
    (tmp_path / "module.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "place")},
    )
    assert (done.returncode, done.stdout) == (0, "42\n\n"), done.stderr
    assert done.stderr == "note: compiled code could not be kept: File too large.\n"


@pytest.mark.slow
def test_numba_loads_when_a_function_runs(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from hydraopt.compiled import njit\n"
        "@njit()\ndef half(x):\n    return x // 2\n"
        "before = 'numba' in sys.modules\n"
        "print(before, half(4), 'numba' in sys.modules, half.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "False 2 True half\n"


@pytest.mark.slow
def test_too_low_a_limit_is_an_error_and_no_abort(tmp_path: Path) -> None:
    script = (
        "import resource, numpy\n"
        "from hydraopt.errors import MemoryLimitError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n"
        "from hydraopt.coding.product import add_products\n"
        "x = numpy.zeros((1, 1))\n"
        "try:\n    add_products.by_numba(x, x, x)\n"
        "except MemoryError as error:\n    assert isinstance(error, MemoryLimitError)\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("the limit of this process's memory (ulimit -v) is too low")


def test_a_limit_that_suffices_is_none() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, hard))
    try:
        compiled.check_memory()
        with pytest.raises(MemoryLimitError, match=r"1048576.*1048577"):
            compiled.check_memory((1 << 40) + (1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
