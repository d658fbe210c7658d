"""Installation of the core in an empty environment, and how soon it starts.

    python -m benchmarks.speed install [--repeats 10]

A wheel of this source is installed with pip, without pip's cache, into a new environment. There the
examples are merged at 5 %, and processes are started anew so many times; of each figure the least
is kept: milliseconds of the process (user and system) and of the clock. pip and setuptools, which
the environment brings, do not count among the bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import ROOT, SPEED, provenance, write_result

_OPEN = (
    "from hydraopt import open_bundle; open_bundle('a.hydra.safetensors')['numbers-de'].factors()"
)
_ADAPTERS = ROOT / "examples" / "adapters"
_NOT_OURS = ("pip", "setuptools", "pkg_resources", "_distutils_hack")


def installed(folder: Path) -> dict[str, Any]:
    """Install the core in ``folder``, and return the seconds and bytes that it takes."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = folder / "source"  # a build writes beside its source
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip[0] = str(folder / "venv" / "bin" / "python")
    subprocess.run([*pip, "install", "--no-cache-dir", wheel], check=True)
    seconds = time.perf_counter() - began
    (place,) = (folder / "venv" / "lib").glob("python*/site-packages")
    sizes = {
        part.name: sum(x.stat().st_size for x in [part, *part.rglob("*")] if x.is_file())
        for part in place.iterdir()
        if not part.name.startswith(_NOT_OURS)
    }
    largest = sorted(sizes, key=lambda name: -sizes[name])[:4]
    return {
        "what": "install",
        "wheel_bytes": wheel.stat().st_size,
        "seconds": round(seconds, 1),
        "bytes": sum(sizes.values()),
        "largest": {name: sizes[name] for name in largest},
    }


def started(name: str, command: Sequence[str], folder: Path, repeats: int) -> dict[str, Any]:
    """Return the least milliseconds of a command: of the process, and of the clock."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    used, waited = [], []
    for _ in range(repeats + 1):  # the first writes compiled files
        before, began = os.times(), time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        waited.append(time.perf_counter() - began)
        after = os.times()
        used.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
    return {
        "what": "start",
        "name": name,
        "cpu_ms": round(1000 * min(used[1:])),
        "wall_ms": round(1000 * min(waited[1:])),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Install, measure, and write the result."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--name", default="install")
    args = parser.parse_args(arguments)
    head = provenance("installation of the core, and how soon it starts")
    with tempfile.TemporaryDirectory(prefix="hydraopt-install-") as scratch:
        folder = Path(scratch)
        rows = [installed(folder)]
        python, hydraopt = (str(folder / "venv" / "bin" / x) for x in ("python", "hydraopt"))
        merge = [hydraopt, "merge", *map(str, _ADAPTERS.iterdir()), "--size", "5%"]
        subprocess.run([*merge, "-o", "a.hydra.safetensors", "-q"], cwd=folder, check=True)
        commands = {
            "python": [python, "-c", ""],
            "help": [hydraopt, "--help"],
            "numpy": [python, "-c", "import numpy"],
            "open": [python, "-c", _OPEN],
        }
        rows += [started(name, x, folder, args.repeats) for name, x in commands.items()]
    write_result(SPEED, args.name, head, rows)


if __name__ == "__main__":
    main()
