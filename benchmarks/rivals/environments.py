"""Other people's packages, each in a virtual environment of its own.

The environment holds only the package; what it depends on (torch, safetensors, transformers) is
borrowed from the interpreter that runs the benchmark, so both sides compute with the same torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rivals.registry import requirements

__all__ = ["folder_of", "python_of", "run_lines", "run_module", "versions_of"]

_ROOT = Path(__file__).resolve().parents[2]


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "hydraopt-benchmarks"


def folder_of(name: str) -> Path:
    """Return the environment that holds a rival's package."""
    return _cache() / requirements(name)[0].replace("==", "-")


def python_of(name: str) -> Path:
    """Return the interpreter of the environment that holds a rival's package.

    It is made if it is not there. Raises RuntimeError, with what pip said, if the package cannot be
    installed.
    """
    wanted = requirements(name)
    folder = folder_of(name)
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if ready.is_file():
        _borrow(folder)
        return python
    venv.create(folder, with_pip=True, clear=True)
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{wanted[0]} cannot be installed: {done.stderr.strip()[-300:]}")
    _borrow(folder)
    ready.touch()
    return python


def _borrow(folder: Path) -> None:
    """Let the environment import this interpreter's packages; another one may have made it."""
    place = f"python{sys.version_info.major}.{sys.version_info.minor}"
    borrowed = folder / "lib" / place / "site-packages" / "borrowed.pth"
    borrowed.write_text(sysconfig.get_paths()["purelib"] + "\n")


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Return package and version of these rivals, as results name them."""
    return dict(requirements(name)[0].split("==") for name in names)


def run_module(
    module: str, *arguments: object, python: Path | None = None, **env: str
) -> Iterator[dict[str, Any]]:
    """Run a module of this repository by ``python``, default this one, as :func:`run_lines`."""
    command = [str(python or sys.executable), "-m", module, *map(str, arguments)]
    # The repository first, whatever folder this process was started in.
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return run_lines(command, PYTHONPATH=os.pathsep.join(paths), **env)


def run_lines(command: Sequence[str], **env: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects that a command prints, one a line, as they come.

    What fails yields, last, ``{"failed": the end of what it said, "code": its exit}``.
    """
    # Into a file: a pipe that nobody reads would stop a command that says much.
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env={**os.environ, **env}
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
            process.wait()
        finally:
            process.kill()
            process.communicate()  # closes its output as well
        if process.returncode:
            said.seek(0)
            lines = [line for line in said.read().strip().splitlines() if line.strip()]
            why = lines[-1][-300:] if lines else f"exit {process.returncode}"
            yield {"failed": why, "code": process.returncode}
