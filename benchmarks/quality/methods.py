"""Every rival on a set: bytes on disk, relative error, seconds and memory, and then task scores.

    python benchmarks/quality/methods.py SET [--plan rivals|map] [--peers]
    python benchmarks/quality/methods.py SET --score --tasks TASKS [--rows 128]

Without ``--score`` no model is needed: every row of the plan (benchmarks/quality/compressors/rows)
writes all adapters of the set into a folder below build/, in a process of its own, and reads them
back; ``--peers`` adds lorashare and vlora-dev, each in its own environment, failures recorded.
``--score`` then has every task answered with what was read back, as evidence.py does for bundles.
Both go on where they stopped, and rows that changed are made and scored again. The result is
benchmarks/quality/results/SET.PLAN.json. ``--adapters N`` takes the first N adapters, ``--only
TEXT`` the rows whose label holds the text; both are for trying things out, with ``--out``.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.common import provenance  # noqa: E402
from benchmarks.quality.compressors import rows as plans  # noqa: E402
from benchmarks.quality.compressors.base import (  # noqa: E402
    Compressor,
    Modules,
    pack,
    relative_errors,
    tasks_of,
)
from benchmarks.quality.evidence import original_adapters, request_for  # noqa: E402
from benchmarks.quality.sets import RESULTS, SETS  # noqa: E402
from hydraopt.adapters import Adapter  # noqa: E402

__all__ = ["code_of", "made", "merged_scores", "rows_of", "scored"]

_LARGEST = 105.0
"""Percent of the fp16 numbers; the adapters' own files have headers."""

Note = dict[str, Any]
Result = dict[str, Any]


def rows_of(plan: str, adapters: Sequence[Adapter]) -> list[Compressor]:
    """The rows of a plan for these adapters."""
    rank = max(module.r for adapter in adapters for module in adapter.modules.values())
    return (plans.head_map if plan == "map" else plans.rivals)(len(adapters), rank)


@functools.cache
def code_of() -> str:
    """Hash of the source that rows come of: compressors, methods, and what writes bundles."""
    package = ROOT / "src" / "hydraopt"
    folders = [ROOT / "benchmarks" / "quality" / "compressors"]
    folders += [package / "methods", package / "bundle"]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    files += [package / name for name in ("align.py", "combining.py", "types.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def measured(row: Compressor, adapters: Sequence[Adapter], folder: Path) -> Note:
    """Write, read back and measure one row in this process; its note."""
    tasks = tasks_of(adapters)
    before = _peak()
    packed = pack(row, tasks, folder)
    peak = _peak() - before
    numbers = sum(adapter.numbers for adapter in adapters)
    errors = relative_errors(tasks, packed.factors)
    return {
        "method": row.method,
        "setting": row.setting,
        "bytes": packed.bytes,
        "size_pct": round(100 * packed.bytes / (2 * numbers), 4),
        "errors": {name: round(error, 6) for name, error in errors.items()},
        "merge_seconds": round(packed.write_seconds, 2),
        "read_seconds": round(packed.read_seconds, 2),
        "peak_mib": round(peak, 1),
        "sha256": _files_hash(folder),
    }


def _peak() -> float:
    """Largest memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _files_hash(folder: Path) -> str:
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
        key = f"{code_of()}-{inputs}"
        known = json.loads(file.read_text()) if file.is_file() else {}
        if known.get("key") == key and folder.is_dir():
            yield row.label, known["note"]
            continue
        _empty(folder)
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


def _empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def in_a_process(arguments: Sequence[str]) -> Callable[[Compressor, Path], Note]:
    """A builder that runs this script for one row, so that memory and failures are the row's."""

    def build(row: Compressor, folder: Path) -> Note:
        command = [sys.executable, str(Path(__file__).resolve()), *arguments]
        command += ["--one", row.label, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.strip().splitlines() if line.strip()]
            why = said[-1][-300:] if said else f"exit {done.returncode}"
            return {"method": row.method, "setting": row.setting, "failed": why}
        note: Note = json.loads(done.stdout.splitlines()[-1])
        return note

    return build


class ReadBack(Mapping[str, Modules]):
    """What a row left on disk, read a task at a time: all rows at once would fill the memory."""

    def __init__(self, row: Compressor, folder: Path, names: Sequence[str]) -> None:
        self._row, self._folder, self._names = row, folder, names

    def __getitem__(self, name: str) -> Modules:
        if name not in self._names:
            raise KeyError(name)
        return self._row.read(self._folder, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def peer_rows(adapters: Sequence[Adapter], place: Path) -> Iterator[tuple[Compressor, Note]]:
    """lorashare and vlora-dev at each k, kept below ``place``; a failure has no files."""
    from benchmarks.quality.rivals import iter_peers

    tasks = tasks_of(adapters)
    numbers = sum(adapter.numbers for adapter in adapters)
    for rival in iter_peers(adapters):
        row = peer_row(rival.name, rival.setting)
        if rival.failed or not rival.factors:
            why = rival.failed or "it wrote no factors"
            yield row, {"method": rival.name, "setting": rival.setting, "failed": why}
            continue
        folder = place / row.label
        _empty(folder)
        folder.mkdir(parents=True)
        row.write(rival.factors, folder)
        errors = relative_errors(tasks, rival.factors)
        yield (
            row,
            {
                "method": rival.name,
                "setting": rival.setting,
                "bytes": rival.bytes,
                "size_pct": round(100 * rival.bytes / (2 * numbers), 4),
                "errors": {name: round(error, 6) for name, error in errors.items()},
                "merge_seconds": rival.seconds,
                "read_seconds": None,
                "peak_mib": None,
                "sha256": _files_hash(folder),
            },
        )


def peer_row(name: str, setting: str) -> Compressor:
    """Rebuilt factors of a peer as they came, in float32; the bytes are those the peer wrote."""

    def write(tasks: Mapping[str, Modules], folder: Path) -> None:
        for task, modules in tasks.items():
            flat = {f"{p}.{s}": np.ascontiguousarray(x) for p, pair in modules.items()
                    for s, x in zip("BA", pair, strict=True)}  # fmt: skip
            save_file(flat, str(folder / f"{task}.safetensors"))

    def read(folder: Path, task: str) -> Modules:
        tensors = load_file(str(folder / f"{task}.safetensors"))
        paths = [key.removesuffix(".B") for key in tensors if key.endswith(".B")]
        return {path: (tensors[f"{path}.B"], tensors[f"{path}.A"]) for path in paths}

    return Compressor(name, setting.replace(",", ""), write, read)


def stale(
    task: Mapping[str, Any], before: Mapping[str, Any], methods: Mapping[str, Note]
) -> Result:
    """A scored task without the rows whose files are no longer those that were scored."""
    kept = {
        label: score
        for label, score in task["results"].items()
        if label in ("base", "original")
        or (label in methods and before.get(label, {}).get("sha256") == methods[label]["sha256"])
    }
    return {**task, "results": kept}


def merged_scores(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Result:
    """One task's results of two runs over the same rows."""
    return {**new, "results": {**(old or {}).get("results", {}), **new["results"]}}


def with_aliases(task: Result, rows: Sequence[Compressor]) -> Result:
    """Rows whose factors are another's get its scores."""
    results = dict(task["results"])
    for row in rows:
        if row.same_as and row.same_as in results:
            results[row.label] = results[row.same_as]
    return {**task, "results": results}


def scored(
    adapters: Sequence[Adapter],
    others: Mapping[str, Mapping[str, Modules]],
    request: Any,
    known: Sequence[Result],
    keep: Callable[[Mapping[str, Any], list[Result]], None],
) -> None:
    """Score what is missing: adapters that lack the same rows go through the model together.

    known: tasks scored before, by any rows. keep: called with the head of the evaluation and all
    tasks so far, in the adapters' order, after every task.
    """
    from hydraopt.evaluate.compare import Sources, evaluate

    tasks: dict[str, Result] = {task["adapter"]: task for task in known}
    groups: dict[tuple[str, ...], list[Adapter]] = {}
    for adapter in adapters:
        have = tasks.get(adapter.name, {}).get("results", {})
        missing = tuple(label for label in others if label not in have)
        if missing or not have:
            groups.setdefault(missing, []).append(adapter)
    for missing, mine in groups.items():
        sources = Sources(
            {adapter.name: adapter for adapter in mine},
            {},
            {adapter.name: adapter.source.parent for adapter in mine},
            {label: others[label] for label in missing},
        )

        def add(result: Mapping[str, Any]) -> None:
            last = result["tasks"][-1]
            tasks[last["adapter"]] = merged_scores(tasks.get(last["adapter"]), last)
            head = {key: value for key, value in result.items() if key not in ("tasks", "seconds")}
            head["adapters"] = {adapter.name: adapter.content_hash() for adapter in adapters}
            head["fp16_bytes"] = 2 * sum(adapter.numbers for adapter in adapters)
            keep(head, [tasks[a.name] for a in adapters if a.name in tasks])

        evaluate(sources, request, None, (), add)


def _write(path: Path, result: Mapping[str, Any]) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    scratch.replace(path)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--plan", choices=("rivals", "map"), default="rivals")
    parser.add_argument("--peers", action="store_true", help="lorashare and vlora-dev as well")
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--rows", type=int, default=128, help="test rows of a task")
    parser.add_argument("--products", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--adapters", type=int, help="the first N adapters alone")
    parser.add_argument("--only", default="", help="rows whose label holds this text")
    parser.add_argument("--out", type=Path, help="default benchmarks/quality/results/SET.PLAN.json")
    parser.add_argument("--one", nargs=2, metavar=("LABEL", "FOLDER"), help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = _arguments()
    args = parser.parse_args()
    adapters = original_adapters(args.set)[: args.adapters]
    rows = [row for row in rows_of(args.plan, adapters) if args.only in row.label]
    if args.one:
        label, folder = args.one
        print(
            json.dumps(measured(next(r for r in rows if r.label == label), adapters, Path(folder)))
        )
        return
    if args.score and not args.tasks:
        parser.error("--score needs --tasks")
    if (args.adapters or args.only) and not args.out:
        parser.error("--adapters and --only need --out: they are no result of the set")
    out = args.out or RESULTS / f"{args.set}.{args.plan}.json"
    before = json.loads(out.read_text()) if out.is_file() else {}
    names = [adapter.name for adapter in adapters]
    inputs = hashlib.sha256("".join(a.content_hash() for a in adapters).encode()).hexdigest()[:16]
    place = ROOT / "build" / "methods" / args.set / f"{args.plan}-{inputs}"
    started = time.monotonic()
    arguments = [args.set, "--plan", args.plan]
    arguments += ["--adapters", str(args.adapters)] if args.adapters else []
    notes = dict(made(rows, place, in_a_process(arguments), inputs))
    if args.peers:
        for row, note in peer_rows(adapters, place):
            rows.append(row)
            notes[row.label] = note
    else:
        # What an earlier call with --peers found stays, as long as its files are there.
        for label, note in {**before.get("methods", {}), **before.get("failures", {})}.items():
            if note["method"] in ("lorashare", "vlora") and (
                "failed" in note or (place / label).is_dir()
            ):
                rows.append(peer_row(note["method"], note["setting"]))
                notes[label] = note
    methods = {label: note for label, note in notes.items() if "failed" not in note}
    origin = provenance(f"{args.set}: {args.plan}", seed=0)
    result: Result = {
        **before,
        "schema": "hydraopt.eval/1",
        "set": args.set,
        "plan": args.plan,
        "command": origin["command"],
        "hardware": origin["hardware"],
        "versions": origin["versions"],
        "fp16_bytes": 2 * sum(adapter.numbers for adapter in adapters),
        "methods": methods,
        "failures": {label: note for label, note in notes.items() if "failed" in note},
        "guess": [],
        "tasks": [stale(t, before["methods"], methods) for t in before.get("tasks", ())],
        "seconds": round(before.get("seconds", 0.0) + time.monotonic() - started, 1),
    }
    _write(out, result)
    print(f"{len(methods)} rows, {len(result['failures'])} failed: {out.name}", flush=True)
    if not args.score:
        return
    if before.get("tasks") and (before["limits"]["rows"], before["products"]) != (
        args.rows,
        args.products,
    ):
        raise SystemExit(f"{out.name} was scored with other rows or products; remove it first")
    # What takes more room than the adapters' files is no compressor; its errors are in the result.
    live = [r for r in rows if r.label in methods and methods[r.label]["size_pct"] <= _LARGEST]
    others = {r.label: ReadBack(r, place / r.label, names) for r in live if not r.same_as}

    def keep(head: Mapping[str, Any], tasks: list[Result]) -> None:
        done = [with_aliases(task, live) for task in tasks]
        seconds = round(result["seconds"] + time.monotonic() - started, 1)
        _write(out, {**result, **head, "tasks": done, "seconds": seconds})
        print(f"{len(done)}/{len(adapters)} {done[-1]['adapter']}, {seconds:.0f} s", flush=True)

    request = request_for(args.set, args.tasks, args.rows, args.products)
    scored(adapters, others, request, result["tasks"], keep)


if __name__ == "__main__":
    main()
