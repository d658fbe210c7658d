"""Measure merges without a limit: bytes and errors, beside those at a tenth of the fp16 bytes.

    python -m benchmarks.quality default [--adapters DIR] [--again]

Merged are sets of this repository, redundant ones (ten equal, near copies, ten checkpoints of one
run), and with DIR (and its MANIFEST.json) adapters by other people, one by one. Merges of an
earlier run with the same code are kept unless --again is given. Writes
benchmarks/results/quality/default.json.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.common import QUALITY, ROOT, bundle_hash, provenance, save_json
from benchmarks.quality.real import places
from benchmarks.quality.redundant import checkpoints, near_copies
from benchmarks.quality.sets import inputs_of, original_adapters, pinned
from hydraopt.adapters import Adapter, read_adapter
from hydraopt.bundle import verify_bundle
from hydraopt.errors import HydraoptError
from hydraopt.merging import merge
from hydraopt.merging.options import DEFAULT_MAX_ERROR

__all__ = ["main"]

Row = dict[str, Any]
BESIDE = "10%"
"""The size that the merges without a limit are shown beside."""
_NOISES = (0.0, 0.01, 0.03, 0.1)
_COPIES = 10
_WORKED = "date_format-de"
"""The adapter of the forty that near copies are made of."""


def _one_merge(adapters: Sequence[Adapter], path: Path, **limit: Any) -> Row:
    """Return what a merge made. cpu_seconds: of all processes."""
    wall, cpu = time.monotonic(), sum(os.times()[:4])
    made = merge(adapters, path, **limit)
    seconds, of_cores = time.monotonic() - wall, sum(os.times()[:4]) - cpu
    errors = list(made.errors.values())
    return {
        "bytes": made.size,
        "size_pct": round(100 * made.fraction, 3),
        "worst_error": round(max(errors), 5),
        "mean_error": round(sum(errors) / len(errors), 5),
        "passes": made.passes,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(of_cores, 2),
    }


def _compared(name: str, kind: str, adapters: Sequence[Adapter], known: Mapping[str, Row]) -> Row:
    """Return a set merged without a limit and to the size beside it.

    known: rows of an earlier run, by name; one of the same adapters is returned.
    """
    row: Row = {"name": name, "kind": kind, "adapters": len(adapters)}
    row["inputs"] = inputs_of(adapters)
    if (before := known.get(name)) and before.get("inputs") == row["inputs"]:
        return before
    row["fp16_bytes"] = 2 * sum(adapter.numbers for adapter in adapters)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.hydra.safetensors"
        row["default"] = _one_merge(adapters, path)
        row["verified"] = verify_bundle(path, adapters).ok
        try:
            row["beside"] = _one_merge(adapters, path, size=BESIDE)
        except HydraoptError as error:
            row["beside"] = {"refused": str(error).partition("\n")[0].partition(";")[0]}
    return row


Makes = Callable[[Path], Sequence[Adapter]]
"""Adapters that may be written to a folder first."""


def _sets() -> Iterator[tuple[str, str, Makes]]:
    """Yield name, kind and adapters of what lies here, and of redundant sets made of it."""
    zoo = ROOT / "zoo" / "adapters"
    forty = zoo / "gemma3-5x8"
    for name in pinned():
        yield name, "set", functools.partial(_originals, name)
    for noise in _NOISES:
        name = f"{_COPIES} copies, {100 * noise:g} % off" if noise else f"{_COPIES} equal"
        copied = functools.partial(near_copies, forty / _WORKED, count=_COPIES, noise=noise)
        yield name, "redundant", copied
    yield f"{_COPIES} checkpoints", "redundant", functools.partial(checkpoints, count=_COPIES)


def _others(folder: Path) -> Iterator[tuple[str, str, Makes]]:
    """Yield name, kind and adapter of adapters by other people, one by one."""
    for about, place in places(folder):
        # A file's first folder may name the repository again.
        file = about["file"].removeprefix(about["repo"].replace("/", "__") + "/")
        yield f"{about['repo']}/{file}", "alone", functools.partial(_read, place)


def _originals(name: str, _: Path) -> list[Adapter]:
    return original_adapters(name)


def _read(place: Path, _: Path) -> list[Adapter]:
    return [read_adapter(place)]


def _code() -> str:
    """Return a hash of what the default makes of the examples.

    Where that is the same, merges are kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.hydra.safetensors"
        merge(ROOT / "examples" / "adapters" / "*", path)
        return f"{bundle_hash()}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("--adapters", type=Path, help="adapters by other people")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--out", type=Path, default=QUALITY / "default.json")
    args = parser.parse_args(arguments)
    result = provenance("merges without a limit", seed=0)
    result |= {"limit": {"max_error": DEFAULT_MAX_ERROR}}
    before = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    result["code"] = _code()
    kept = before.get("code") == result["code"] and not args.again
    known = {row["name"]: row for row in (before.get("merges", ()) if kept else ())}
    merges: list[Row] = []
    for name, kind, made in (*_sets(), *(_others(args.adapters) if args.adapters else ())):
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = _compared(name, kind, made(Path(folder)), known)
            except HydraoptError as error:
                # Paths of the run are no part of a result.
                said = str(error).replace(str(args.adapters), "").partition(" [file")[0]
                row = {"name": name, "kind": kind, "refused": said}
        merges.append(row)
        print(row, flush=True)
        save_json(args.out, result | {"merges": merges})
