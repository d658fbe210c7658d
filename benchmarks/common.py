"""Helpers of all benchmarks: the provenance of a result, and the place where it is written."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hydraopt.adapters import Adapter
from hydraopt.files import alone

__all__ = [
    "CODING",
    "HOSTILE",
    "QUALITY",
    "RESULTS",
    "ROOT",
    "SPEED",
    "append_rows",
    "begun",
    "bundle_hash",
    "joined",
    "local_folder",
    "package_hash",
    "provenance",
    "rewriting",
    "save_json",
    "write_result",
]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CODING, HOSTILE, QUALITY, SPEED = (RESULTS / x for x in ("coding", "hostile", "quality", "speed"))

_PACKAGES = (
    "hydraopt",
    "numpy",
    "scipy",
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "zstandard",
)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and the packages, by name, or "not installed"."""
    numbers = {"python": platform.python_version()}
    for name in packages:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            numbers[name] = "not installed"
    return numbers


def _hardware() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [x.split(":", 1)[1] for x in info.read_text().splitlines() if "model name" in x]
        model = names[0].strip() if names else model
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _shown(argument: str) -> str:
    """Return an argument without the folders that mean nothing elsewhere.

    An absolute path outside this repository keeps at most its last two names.
    """
    path = Path(argument)
    if not path.is_absolute():
        return argument
    if path.is_relative_to(ROOT):
        return str(path.relative_to(ROOT))
    return "/".join(path.parts[-2:])


def _module() -> list[str]:
    """Return what ``python`` was told to run: ``-m MODULE``, or a script that is none of ours."""
    started = Path(sys.argv[0]).resolve()
    if not started.is_relative_to(ROOT):
        return [_shown(str(started))]
    parts = started.relative_to(ROOT).with_suffix("").parts
    return ["-m", ".".join(part for part in parts if part != "__main__")]


def provenance(what: str, seed: int | None = None) -> dict[str, Any]:
    """Return the head of a result: what was measured, by which command, with what, on what."""
    return {
        "what": what,
        "command": " ".join(["python", *_module(), *map(_shown, sys.argv[1:])]),
        "seed": seed,
        "versions": versions(_PACKAGES),
        "hardware": _hardware(),
    }


@functools.cache
def bundle_hash() -> str:
    """Return a hash of the bytes that a merge of the examples writes today.

    Where they are the same, whatever the source looks like, a result that is made of merges alone
    goes on.
    """
    from hydraopt import merge

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "examples.hydra.safetensors"
        merge(ROOT / "examples" / "adapters" / "*", path, size="5%")
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@functools.cache
def package_hash(*others: str) -> str:
    """Return a hash of the package's source: another merge may come of another source.

    others: folders whose source decides too.
    """
    folders = [ROOT / x for x in ("src/hydraopt", *others)]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def local_folder(adapter: Adapter) -> Path:
    """Return the folder that the adapter was read from; raises SystemExit for one of a store."""
    if not isinstance(adapter.source, Path):
        raise SystemExit(f"{adapter.name} lies at {adapter.source}; copy it to this machine")
    return adapter.source.parent


def save_json(path: Path, result: Mapping[str, Any], rows: str = "") -> None:
    """Write a result in one step: a run that is cut off leaves the file as it was.

    rows: what has so many numbers that each of its items is one line; it comes last.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    head = {key: value for key, value in result.items() if key != rows}
    text = json.dumps(head | ({rows: []} if rows else {}), indent=1, ensure_ascii=False)
    if rows:
        lines = (json.dumps(x, ensure_ascii=False, separators=(",", ":")) for x in result[rows])
        text = text.removesuffix("[]\n}") + "[\n" + ",\n".join(lines) + "\n]\n}"
    scratch.write_text(text + "\n", encoding="utf-8")
    scratch.replace(path)


def begun(path: Path, head: Mapping[str, Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a result that a run goes on with; none where there is no result yet.

    Raises SystemExit where the result's head has other values under these keys.
    """
    if not path.is_file():
        return []
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if changed := [key for key in keys if before.get(key) != head[key]]:
        raise SystemExit(f"{path.name} has other {', '.join(changed)}; remove it first")
    rows: list[dict[str, Any]] = before.get("rows", [])
    return rows


@contextmanager
def rewriting(path: Path) -> Iterator[None]:
    """Let one process at a time read a result and write it again."""
    with alone(path.with_name(f".{path.name}.lock")):
        yield


def append_rows(
    path: Path,
    head: Mapping[str, Any],
    keys: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    of: Sequence[str],
) -> None:
    """Add rows to a result; other processes may add others meanwhile. Raises as :func:`begun`.

    of: keys that no two rows have in common; a row that is there already stays.
    """
    with rewriting(path):
        save_json(path, {**head, "rows": joined(begun(path, head, keys), rows, of)}, "rows")


def joined(
    before: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], of: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Return rows with others behind them, without those that are there already, by some keys."""
    known = {tuple(x[key] for key in of) for x in before}
    return [*before, *(x for x in rows if tuple(x[key] for key in of) not in known)]


def write_result(
    folder: Path, name: str, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Path:
    """Write ``folder/NAME.json``: the head of :func:`provenance`, taken at the start, and rows."""
    path = folder / f"{name}.json"
    save_json(path, {**head, "rows": list(rows)})
    return path
