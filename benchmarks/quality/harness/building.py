"""Build each row as files once, in a process of its own, and read it back from its folder."""

from __future__ import annotations

import functools
import hashlib
import json
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, package_hash
from benchmarks.rivals.base import (
    Compressor,
    pack,
    relative_errors,
    tasks_of,
)
from benchmarks.rivals.environments import run_module
from hydraopt.adapters import Adapter

__all__ = [
    "Note",
    "code_of",
    "emptied",
    "files_hash",
    "heading",
    "in_a_process",
    "inputs_of",
    "made",
    "measured",
]

Note = dict[str, Any]
"""What is known of a row that was built, or why it ``failed``."""


_MAKES_ROWS = {"linalg", "methods", "bundle", "align", "combine"}
"""Folders and modules of the package that rivals' rows come of, wherever they lie."""


@functools.cache
def code_of() -> str:
    """Hash of the source that rows come of: rivals, methods, and what writes bundles."""
    package = ROOT / "src" / "hydraopt"
    files = sorted((ROOT / "benchmarks" / "rivals").rglob("*.py"))
    for path in sorted(package.rglob("*.py")):
        if _MAKES_ROWS & {*path.relative_to(package).with_suffix("").parts}:
            files.append(path)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def inputs_of(adapters: Sequence[Adapter]) -> str:
    """Hash of the adapters that rows are built of."""
    hashes = "".join(adapter.content_hash() for adapter in adapters)
    return hashlib.sha256(hashes.encode()).hexdigest()[:16]


def heading(row: Compressor) -> Note:
    """What tables call a row."""
    tuned = {"tuned": dict(row.tuned)} if row.tuned else {}
    return {"method": row.method, "setting": row.setting, **tuned}


def measured(row: Compressor, adapters: Sequence[Adapter], folder: Path) -> Note:
    """Write, read back and measure one row in this process; its note."""
    tasks = tasks_of(adapters)
    before = _peak()
    packed = pack(row, tasks, folder)
    peak = _peak() - before
    numbers = sum(adapter.numbers for adapter in adapters)
    errors = relative_errors(tasks, packed.factors)
    return {
        **heading(row),
        "bytes": packed.bytes,
        "size_pct": round(100 * packed.bytes / (2 * numbers), 4),
        "errors": {name: round(error, 6) for name, error in errors.items()},
        "merge_seconds": round(packed.write_seconds, 2),
        "read_seconds": round(packed.read_seconds, 2),
        "peak_mib": round(peak, 1),
        "sha256": files_hash(folder),
    }


def _peak() -> float:
    """Largest memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def files_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def made(
    rows: Sequence[Compressor],
    place: Path,
    build: Callable[[Compressor, Path], Note],
    inputs: str,
) -> Iterator[tuple[str, Note]]:
    """(label, note) of every row: from ``place`` where today's code made it of these inputs, else
    built. A row that fails is a note with ``failed`` and is tried again the next time."""
    for row in rows:
        folder, file = place / row.label, place / f"{row.label}.json"
        code = [code_of(), package_hash()] if row.of_package else [code_of()]
        key = "-".join([*code, inputs])
        known = json.loads(file.read_text()) if file.is_file() else {}
        if known.get("key") == key and folder.is_dir():
            yield row.label, known["note"]
            continue
        emptied(folder)
        note = build(row, folder)
        if "failed" in note:
            print(f"{row.label}: failed, {note['failed']}", flush=True)
        else:
            place.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"key": key, "note": note}))
            mean = sum(note["errors"].values()) / len(note["errors"])
            print(
                f"{row.label}: {note['size_pct']:.2f} %, error {mean:.4f}, "
                f"{note['merge_seconds']} s, {note['peak_mib']} MiB",
                flush=True,
            )
        yield row.label, note


def emptied(folder: Path) -> None:
    """Remove a folder, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)


def in_a_process(command: Sequence[str]) -> Callable[[Compressor, Path], Note]:
    """A builder that runs ``python -m COMMAND ... --one LABEL FOLDER``, which prints the note of
    that row, so that memory and failures are the row's."""

    def build(row: Compressor, folder: Path) -> Note:
        lines = list(run_module(*command, "--one", row.label, str(folder)))
        note = lines[-1] if lines else {"failed": "nothing was printed"}
        return {**heading(row), "failed": note["failed"]} if "failed" in note else note

    return build
