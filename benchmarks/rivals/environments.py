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
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["LORASHARE", "MERGEKIT", "VLORA", "peer_python", "run_lines"]

LORASHARE = "lorashare==0.1.3"
VLORA = "vlora-dev==1.0.0"
MERGEKIT = "mergekit==0.1.5"
_WITH = {MERGEKIT: ("immutables>=0.21",)}
"""What a package needs besides what is borrowed."""


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "hydraopt-benchmarks"


def peer_python(requirement: str) -> Path:
    """The interpreter of the environment that holds ``requirement``; made if it is not there.

    Raises RuntimeError, with what pip said, if the package cannot be installed.
    """
    folder = _cache() / requirement.replace("==", "-")
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if ready.is_file():
        return python
    wanted = [requirement, *_WITH.get(requirement, ())]
    venv.create(folder, with_pip=True, clear=True)
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{requirement} cannot be installed: {done.stderr.strip()[-300:]}")
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    borrowed = folder / "lib" / name / "site-packages" / "borrowed.pth"
    borrowed.write_text(sysconfig.get_paths()["purelib"] + "\n")
    ready.touch()
    return python


def run_lines(
    command: Sequence[str | Path], timeout: float | None = None, env: dict[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """Run a script that prints one JSON object a line, and yield them as they come.

    A script that fails yields, last, ``{"failed": the end of what it said, "code": its exit}``.
    """
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
        _, said = process.communicate(timeout=timeout)
    finally:
        process.kill()
    if process.returncode:
        lines = [line for line in said.strip().splitlines() if line.strip()]
        why = lines[-1][-300:] if lines else f"exit {process.returncode}"
        yield {"failed": why, "code": process.returncode}
