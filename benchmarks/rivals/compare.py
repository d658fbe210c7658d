"""Compare hydraopt with every rival on your adapters, at the bytes of each.

    python -m benchmarks.rivals compare ADAPTERS... -o FOLDER [--sizes 10% 5%] [--only TEXT ...]
    python -m benchmarks.rivals compare ADAPTERS... -o FOLDER --score --base BASE --tasks TASKS

Each rival of benchmarks/rivals/registry.py writes all adapters to disk and reads them back.
hydraopt then merges them to the bytes of each rival, or to ``--sizes``. FOLDER gets the table as
compare.json and compare.txt, and compare.png, a picture of error (with ``--score`` of KL) against
bytes. Methods that other packages register as ``hydraopt.methods`` take part.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import provenance, save_json
from benchmarks.rivals import registry
from benchmarks.rivals.base import (
    DEFAULT,
    METHOD,
    WITH_PROMPTS,
    Compressor,
    ReadBack,
    Tasks,
    pack,
    relative_errors,
    tasks_of,
)
from benchmarks.rivals.bundles import BUNDLE, combined, read_bundle
from benchmarks.rivals.registry import SetShape
from hydraopt.adapters import Adapter, read_adapters
from hydraopt.codec import METHOD_GROUP
from hydraopt.codec.plugins import plugin_names
from hydraopt.errors import HydraoptError
from hydraopt.merging import Look, merge

__all__ = ["compare", "main", "ours", "shown"]

_NEAR = 1.02
"""Sizes that are nearer than this factor share one merge."""

Row = dict[str, Any]
"""method, setting, bytes, size_pct, error (mean over tasks), errors; or method, setting, failed.
With scores: kl and changed_pct, means over tasks."""


def ours(adapters: Sequence[Adapter], size: str | None, look: Look | None = None) -> Compressor:
    """Return hydraopt's bundle of the adapters at a size, as a row beside the rivals.

    size: None for no limit.
    look: what the merge may ask of the base model; "prompts" is then in its name.
    """

    def write(_: Tasks, folder: Path) -> None:
        merge(adapters, folder / BUNDLE, size=size, look=look)

    method = METHOD if look is None else f"{METHOD}{WITH_PROMPTS}"
    return Compressor(method, size or DEFAULT, write, read_bundle)


def measured(row: Compressor, tasks: Tasks, fp16: int, folder: Path) -> Row:
    """Write and read back one row; a failure is a row that says why."""
    about = {"method": row.method, "setting": row.setting, "label": row.label}
    if folder.exists():
        shutil.rmtree(folder)
    try:
        packed = pack(row, tasks, folder)
    except (HydraoptError, RuntimeError, ValueError) as error:
        return {**about, "failed": str(error).splitlines()[0]}
    errors = relative_errors(tasks, packed.factors)
    return {
        **about,
        "bytes": packed.bytes,
        "size_pct": round(100 * packed.bytes / fp16, 3),
        "error": round(float(np.mean(list(errors.values()))), 6),
        "errors": {name: round(error, 6) for name, error in errors.items()},
        "seconds": round(packed.write_seconds, 2),
    }


def _sizes_of(rows: Sequence[Row], fp16: int) -> list[str]:
    """Return the bytes of the rows smaller than fp16, those that are near each other once."""
    found: list[int] = []
    for size in sorted(row["bytes"] for row in rows if row.get("bytes", fp16) < fp16):
        if not found or size > found[-1] * _NEAR:
            found.append(size)
    return [str(size) for size in found]


def compare(
    adapters: Sequence[Adapter], work: Path, sizes: Sequence[str] = (), only: Sequence[str] = ()
) -> Iterator[tuple[Compressor, Row]]:
    """Yield every rival, and hydraopt at the bytes of each, with what was measured.

    Args:
        adapters: plain LoRA adapters of one base model.
        work: folder for what each writes; it stays there, to be scored.
        sizes: sizes of hydraopt's bundles, in place of the rivals' bytes; these come first.
        only: take only rivals whose label contains one of these texts.

    Raises SystemExit for a text that is in no label.
    """
    tasks, fp16 = tasks_of(adapters), 2 * sum(adapter.numbers for adapter in adapters)
    rank = max(module.r for adapter in adapters for module in adapter.modules.values())
    done: list[Row] = []
    registered = [combined(name) for name in plugin_names(METHOD_GROUP)]
    rivals = [*registry.rows_of(SetShape(len(adapters), rank)), *registered]
    for text in only:
        if not any(text in row.label for row in rivals):
            names = ", ".join(dict.fromkeys(row.method for row in rivals))
            raise SystemExit(f"no rival contains {text!r} in its name: {names}")
    mine = [ours(adapters, size) for size in sizes]
    for row in [*mine, *(row for row in rivals if not only or any(x in row.label for x in only))]:
        done.append(measured(row, tasks, fp16, work / row.label))
        yield row, done[-1]
    for size in [] if sizes else _sizes_of(done, fp16):
        row = ours(adapters, size)
        yield row, measured(row, tasks, fp16, work / row.label)


def score(
    adapters: Sequence[Adapter],
    found: Sequence[tuple[Compressor, Row]],
    work: Path,
    base: str,
    tasks: Path,
    rows: int,
) -> None:
    """Add KL to the originals and the share of changed answers to the rows, means over tasks."""
    from hydraopt.evaluate import EvaluationRequest, evaluate
    from hydraopt.evaluate.results import Compared

    names = [adapter.name for adapter in adapters]
    live = {row.label: (row, note) for row, note in found if "failed" not in note}
    compared = Compared(
        {adapter.name: adapter for adapter in adapters},
        {},
        {adapter.name: adapter.source.parent for adapter in adapters},
        {label: ReadBack(row, work / label, names) for label, (row, _) in live.items()},
    )
    result = evaluate(compared, EvaluationRequest(base, tasks, rows=rows))
    for label, (_, note) in live.items():
        scores = [task.results[label] for task in result.tasks if label in task.results]
        for key in ("kl", "changed_pct"):
            values = [x for x in (getattr(row, key) for row in scores) if x is not None]
            if values:
                note[key] = round(float(np.mean(values)), 6)


def shown(rows: Sequence[Row]) -> str:
    """Return the table as text, smallest first; failures come last."""
    head = ["method", "setting", "bytes", "of fp16", "error", "KL", "changed"]
    lines = [head]
    for row in sorted(rows, key=lambda x: x.get("bytes", float("inf"))):
        if "failed" in row:
            lines.append([row["method"], row["setting"], "failed", "", "", "", row["failed"]])
            continue
        kl, changed = row.get("kl"), row.get("changed_pct")
        lines.append(
            [
                row["method"],
                row["setting"],
                f"{row['bytes']:,}",
                f"{row['size_pct']:.2f} %",
                f"{row['error']:.4f}",
                "" if kl is None else f"{kl:.5f}",
                "" if changed is None else f"{changed:.1f} %",
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
    return "\n".join(
        "  ".join([*(x.ljust(w) for x, w in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw KL against bytes, or the error where nothing was scored; hydraopt as a line."""
    import matplotlib.pyplot as plt

    key = "kl" if any("kl" in row for row in rows) else "error"
    figure, axes = plt.subplots(figsize=(9, 6))
    methods = dict.fromkeys(row["method"] for row in rows if row.get(key) is not None)
    for method in sorted(methods, key=lambda name: name == METHOD):
        mine = sorted(
            (row["size_pct"], row[key])
            for row in rows
            if row["method"] == method and row.get(key) is not None
        )
        style = {"linewidth": 2.5, "color": "black"} if method == METHOD else {"linewidth": 0.8}
        axes.plot(*zip(*mine, strict=True), marker="o", markersize=4, label=method, **style)
    axes.set_xscale("log")
    if key == "kl":
        axes.set_yscale("log")
    axes.set_xlabel("size, % of the adapters in fp16")
    axes.set_ylabel("KL to the originals, nats a token" if key == "kl" else "mean relative error")
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of(__name__, __doc__)
    parser.add_argument("adapters", nargs="+", help="PEFT folders, files or globs")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--sizes", nargs="+", default=[], metavar="SIZE", help="of hydraopt")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="these rivals alone")
    parser.add_argument("--score", action="store_true", help="answer task files with each")
    parser.add_argument("--base", help="the base model, with --score")
    parser.add_argument("--tasks", type=Path, help="folder of task files, with --score")
    parser.add_argument("--rows", type=int, default=100, help="of a task, with --score")
    args = parser.parse_args(arguments)
    if args.score != bool(args.base and args.tasks):
        parser.error("--score needs --base and --tasks, and they need --score")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = _arguments(arguments)
    adapters = read_adapters(args.adapters)
    work = args.out / "rows"
    head = provenance("hydraopt and its rivals", seed=0)
    hashes = {adapter.name: adapter.content_hash() for adapter in adapters}
    found: list[tuple[Compressor, Row]] = []

    def save() -> str:
        rows = [note for _, note in found]
        table = shown(rows)
        save_json(args.out / "compare.json", {**head, "adapters": hashes, "rows": rows})
        (args.out / "compare.txt").write_text(table + "\n", encoding="utf-8")
        return table

    for row, note in compare(adapters, work, args.sizes, args.only):
        found.append((row, note))
        print(note.get("failed") or f"{row.label}: {note['bytes']:,} bytes", flush=True)
        save()  # a run that is stopped keeps these rows
    if args.score:
        score(adapters, found, work, args.base, args.tasks, args.rows)
    table = save()
    draw([note for _, note in found], args.out / "compare.png")
    print(table)
