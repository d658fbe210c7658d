"""Measure each step of using a bundle: open, decode, attach, switch; time, bytes read and memory.

    python -m benchmarks.speed use phone.hydra.safetensors --task numbers-de --base BASE

A step is measured with the file in memory (warm) and after the system was asked to drop it from
its page cache (cold). Seconds are medians of --repeats. "bytes read" are counted by the bundle's
reader, "fetched from disk" by the system, read-ahead included. "memory at its peak" is the growth
of resident memory during the step. "held" counts decoded tensors. "first" includes loading compiled
code. The second table compares 1, 10 and all tasks with as many fp16 files of the original sizes,
each count in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.commands import parser_of
from benchmarks.speed.footprint import disk_bytes, forget, growth, limited, peak_bytes, start_peak
from benchmarks.speed.frame import frame_of
from benchmarks.speed.separate import compare
from hydraopt.basemodel.model import load_model
from hydraopt.bundle.reader import Bundle
from hydraopt.cli.common import say, show_table, size_text
from hydraopt.collection.following import core_of_bundle
from hydraopt.collection.opening import open_bundle
from hydraopt.errors import UsageError, explain
from hydraopt.progress import Progress
from hydraopt.runtime.attached import Attached, attach
from hydraopt.runtime.bundles import obstacles
from hydraopt.values import counted

__all__ = ["SCHEMA", "measure_use"]

SCHEMA = "hydraopt.use/1"
_COSTS = (
    "on disk",
    "read to use all",
    "read a switch",
    "ms cold",
    "ms warm",
    "tensors held",
    "memory at its peak",
)
COUNTS = (1, 10)
"""Numbers of tasks to compare at, besides all."""

Read = Callable[[], int]
"""Bytes that were read from the file so far."""
Ready = Callable[[ExitStack], tuple[Callable[[], Any], Read]]
"""Prepares a step, and returns what does it and what counts its bytes; the stack undoes it."""

ALL_KEPT = 1 << 62
"""A cache that drops nothing, so that what is held is all of it."""


def measure_use(
    path: str | os.PathLike[str],
    task: str | None = None,
    *,
    model: nn.Module | None = None,
    dtype: str = "float32",
    repeats: int = 5,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Open the bundle, decode a task, attach it, switch to another one; and the same of files.

    task: default the first that can be attached.  model: the base to attach to; without one,
    tasks are decoded for modules of the same sizes that compute in ``dtype`` (torch's name of it),
    and the step "attach" is left out.  repeats: of a step; seconds are medians, memory is the most
    of all.  threads: of torch and BLAS.

    Returns, in bytes and seconds: ``steps`` (what, file "cold" or "warm", seconds, bytes_read by
    the reader, disk_bytes that the system fetched, read-ahead included, and peak_bytes, the growth
    of the resident memory at its peak; None where the system does not tell), ``held`` (decoded
    tensors: shared core, task, other), ``first`` (the first use in this process, which loads
    compiled code), ``comparison`` (of :func:`benchmarks.speed.separate.compare`), and ``notes``.

    Raises TaskNotFoundError, UsageError for a task that cannot be attached or if none can,
    AlignmentError if the base does not fit, BundleFormatError for a damaged bundle.
    """
    bundle, path = open_bundle(path), Path(path)
    _check_one_file(bundle, path)
    usable = [name for name in bundle if not any(obstacles(bundle[name]))]
    task = _chosen(bundle, usable, task)
    other = next((name for name in usable if name != task), None)
    kind = getattr(torch, dtype)
    host = frame_of(bundle, kind) if model is None else model
    kind = next((x.dtype for x in host.parameters() if x.is_floating_point()), kind)
    counts = sorted({min(x, len(usable)) for x in (*COUNTS, len(usable))})
    with limited(threads):
        first = _first(host, path, task, other)
        steps = []
        each = list(_steps(host, path, task, other, model is not None))
        for i, (what, cold, ready) in enumerate(each):
            if progress is not None:
                progress(what, i, len(each))
            steps.append(_measured(what, cold, ready, path, repeats))
    return {
        "schema": SCHEMA,
        "path": str(path),
        "size": bundle.size,
        "tasks": len(bundle),
        "task": task,
        "other": other,
        "dtype": str(kind).removeprefix("torch."),
        "threads": threads,
        "repeats": repeats,
        **first,
        "steps": steps,
        "comparison": compare(path, usable, counts, kind, threads, progress),
        "notes": _notes(steps, model, len(bundle) - len(usable)),
    }


def _check_one_file(bundle: Bundle, path: Path) -> None:
    if core_of_bundle(bundle) is not None:
        raise UsageError(
            explain(
                "only a bundle in one file is timed",
                file=path,
                got="one in several files",
                do="Join it first: hydraopt join",
            )
        )


def _chosen(bundle: Bundle, usable: list[str], task: str | None) -> str:
    """Return the task to measure.

    Raises TaskNotFoundError; UsageError if it cannot be attached.
    """
    name = task if task is not None else next(iter(usable or bundle), None)
    if name is None:
        raise UsageError(explain("the bundle has no task", file=bundle.path))
    bundle[name]
    if name not in usable:
        raise UsageError(
            explain(
                f"task {name!r} cannot be attached: it has {', '.join(obstacles(bundle[name]))}",
                file=bundle.path,
                expected=", ".join(usable[:8]) or "a task of low-rank changes alone",
                do="Take another task, or export this one and load it with PEFT",
            )
        )
    return name


def _first(host: nn.Module, path: Path, task: str, other: str | None) -> dict[str, Any]:
    """Return seconds and memory of the first use, and what it holds with both tasks decoded."""
    before, started = start_peak(), time.perf_counter()
    with attach(host, path, cache_bytes=ALL_KEPT) as attached:
        attached.set_task(task)
        seconds = time.perf_counter() - started
        alone = attached.memory()
        attached.set_task(other)
        both = attached.memory()
    held = {
        "shared_bytes": alone.shared,
        "task_bytes": alone.cached,
        "other_bytes": both.cached - alone.cached,
    }
    return {
        "first": {"seconds": round(seconds, 6), "peak_bytes": growth(before, peak_bytes())},
        "held": held,
    }


def _steps(
    host: nn.Module, path: Path, task: str, other: str | None, has_base: bool
) -> Iterator[tuple[str, bool, Ready]]:
    """Yield (what, whether cold, how) of every step."""
    before, after = (task, other) if other is not None else (None, task)

    def opening(_: ExitStack) -> tuple[Callable[[], Any], Read]:
        opened: list[Bundle] = []
        return (
            lambda: opened.append(open_bundle(path)),
            lambda: opened[0].bytes_read if opened else 0,
        )

    def decoding(_: ExitStack) -> tuple[Callable[[], Any], Read]:
        bundle = open_bundle(path)
        return lambda: bundle[task].factors(), lambda: bundle.bytes_read

    def attaching(stack: ExitStack) -> tuple[Callable[[], Any], Read]:
        bundle = open_bundle(path)
        return lambda: stack.enter_context(attach(host, bundle)), lambda: bundle.bytes_read

    def switching(kept: bool) -> Ready:
        def ready(stack: ExitStack) -> tuple[Callable[[], Any], Read]:
            attached: Attached = attach(host, path, cache_bytes=ALL_KEPT if kept else 0)
            stack.enter_context(attached)
            for name in (after, before) if kept else (before,):
                attached.set_task(name)
            return lambda: attached.set_task(after), lambda: attached.stats.bytes_read

        return ready

    for cold in (True, False):
        yield "open", cold, opening
    for cold in (True, False):
        yield "decode the task", cold, decoding
    if has_base:
        for cold in (True, False):
            yield "attach", cold, attaching
    for cold in (True, False):
        yield "switch, not yet decoded", cold, switching(False)
    yield "switch, decoded before", False, switching(True)


def _measured(what: str, cold: bool, ready: Ready, path: Path, repeats: int) -> dict[str, Any]:
    seconds, read, fetched, grown = [], 0, [], []
    for _ in range(repeats):
        with ExitStack() as stack:
            run, count = ready(stack)
            if cold:
                forget(path)
            held, on_disk, before = start_peak(), disk_bytes(), count()
            started = time.perf_counter()
            result = run()
            seconds.append(time.perf_counter() - started)
            read = count() - before
            after = disk_bytes()
            fetched.append(None if on_disk is None or after is None else after - on_disk)
            grown.append(growth(held, peak_bytes()))
            del result
    return {
        "what": what,
        "file": "cold" if cold else "warm",
        "seconds": round(median(seconds), 6),
        "bytes_read": read,
        "disk_bytes": _most(fetched),
        "peak_bytes": _most(grown),
    }


def _most(values: list[int | None]) -> int | None:
    known = [x for x in values if x is not None]
    return max(known) if len(known) == len(values) else None


def _notes(steps: list[dict[str, Any]], model: nn.Module | None, left_out: int) -> list[str]:
    """Return what a reader of the numbers has to know."""
    notes = []
    if model is None:
        notes.append("no base model was given: attaching to one is not measured")
    if left_out:
        which = (
            "1 task cannot be attached and is"
            if left_out == 1
            else f"{left_out} tasks cannot be attached and are"
        )
        notes.append(f"{which} not in the comparison")
    if not hasattr(os, "posix_fadvise"):
        notes.append("this system cannot be asked to drop a file from memory: cold is as warm here")
    elif steps[0]["disk_bytes"] == 0:
        notes.append("the system kept the file in memory when asked to drop it: cold is as warm")
    elif steps[0]["disk_bytes"] is None:
        notes.append("whether the system did drop the file before cold steps, it does not tell")
    return notes


def _show(report: dict[str, Any]) -> None:
    on = f"attached to {report['base']}" if report["base"] else "no base"
    say(
        f"{report['path']}: {report['task']}, then {report['other'] or 'no other task'}; {on}, "
        f"{report['dtype']}, {counted(report['threads'], 'thread')}"
    )
    show_table(
        "What each step takes",
        ["step", "file", "ms", "bytes read", "fetched from disk", "memory at its peak"],
        [
            [
                x["what"],
                x["file"],
                _ms(x["seconds"]),
                f"{x['bytes_read']:,}",
                _size(x["disk_bytes"]),
                _size(x["peak_bytes"]),
            ]
            for x in report["steps"]
        ],
    )
    held, first = report["held"], report["first"]
    say(
        f"held    shared core {held['shared_bytes']:,}, {report['task']} {held['task_bytes']:,}, "
        f"{report['other'] or 'no other task'} {held['other_bytes']:,} bytes"
    )
    say(
        f"first   {_ms(first['seconds'])} ms to open, attach and decode the first time, which "
        f"loads compiled code; memory {_size(first['peak_bytes'])} at its peak"
    )
    show_table(
        "As many tasks in one bundle, and as fp16 adapters in files of their own",
        ["tasks", "way", *_COSTS],
        [_compared(x) for x in report["comparison"]],
    )
    for note in report["notes"]:
        say(f"note: {note}")


def _compared(row: dict[str, Any]) -> list[object]:
    return [
        row["tasks"],
        "bundle" if row["way"] == "bundle" else f"{row['files']} files",
        size_text(row["file_bytes"]),
        size_text(row["read_bytes"]),
        size_text(row["switch_bytes"]),
        _ms(row["cold_seconds"]),
        _ms(row["warm_seconds"]),
        size_text(row["held_bytes"]),
        _size(row["peak_bytes"]),
    ]


def _ms(seconds: float | None) -> str:
    """Return milliseconds, three digits; "-" if not measured."""
    if seconds is None:
        return "-"
    return f"{1000 * seconds:,.0f}" if seconds >= 0.1 else f"{1000 * seconds:.3g}"


def _size(count: int | None) -> str:
    """Return bytes for people; "-" where the system did not tell them."""
    return "-" if count is None else size_text(count)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one bundle and print the tables, or JSON."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--task", help="default: the first that can be attached")
    parser.add_argument("--base", help="model folder to attach to")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="a phone has few fast cores")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    report = measure_use(
        args.bundle,
        args.task,
        model=_model(args),
        dtype=args.dtype,
        repeats=args.repeats,
        threads=args.threads,
    )
    report["base"] = Path(args.base).name if args.base else None
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        _show(report)


def _model(args: argparse.Namespace) -> nn.Module | None:
    if args.base is None:
        return None
    model: nn.Module = load_model(args.base, args.dtype)[0]
    return model


if __name__ == "__main__":
    main()
