"""``hydraopt use``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hydraopt.cli.common import (
    emit_json,
    json_option,
    quiet_option,
    say,
    show_table,
    size_text,
)
from hydraopt.cli.progress import progress_bar
from hydraopt.errors import UsageError, explain
from hydraopt.files.url import Url, is_url
from hydraopt.values import counted

__all__ = ["use"]

_COSTS = (
    "on disk",
    "read to use all",
    "read a switch",
    "ms cold",
    "ms warm",
    "tensors held",
    "memory at its peak",
)


@click.command()
@click.argument("bundle")
@click.option("--task", metavar="TASK", help="To decode and attach; default the first.")
@click.option("--base", metavar="BASE", help="Model folder to attach to; else that is left out.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="In which the base computes.",
)
@click.option(
    "--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Of each step."
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads to use; a phone has few that are fast.",
)
@json_option
@quiet_option
def use(
    bundle: str,
    task: str | None,
    base: str | None,
    dtype: str,
    repeats: int,
    threads: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure what using BUNDLE takes: seconds, bytes read and memory of each step.

    Opens it, decodes TASK, attaches it to BASE, and switches to another task, each with the file
    in memory (warm) and after it was dropped from there (cold). Then compares 1, 10 and all tasks
    with as many fp16 adapters in files of their own.

    \b
    Example:
      hydraopt use phone.hydra.safetensors --task numbers-de
      hydraopt use phone.hydra.safetensors --task numbers-de --base ./base --json
    """
    if is_url(bundle):
        do = "Fetch it first: hydraopt pull"
        raise UsageError(explain("what is measured lies here", file=Url(bundle), do=do))
    from hydraopt.bundle.reader import open_bundle
    from hydraopt.runtime.use import measure_use

    open_bundle(bundle)  # a mistyped name is found before the base is loaded
    model = None if base is None else _model(base, dtype)
    with progress_bar(quiet or as_json) as progress:
        report = measure_use(
            bundle,
            task,
            model=model,
            dtype=dtype,
            repeats=repeats,
            threads=threads,
            progress=progress,
        )
    report["base"] = None if base is None else Path(base).name
    if as_json:
        emit_json(report)
    else:
        _show(report)


def _model(base: str, dtype: str) -> Any:
    try:
        from hydraopt.basemodel.model import load_model

        return load_model(base, dtype)[0]
    except ModuleNotFoundError as error:
        raise UsageError(
            explain(
                "--base needs more packages",
                got=f"no module {error.name}",
                do="pip install 'hydraopt[eval]'",
            )
        ) from error


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
    """Milliseconds, three digits; "-" where there is no such thing."""
    if seconds is None:
        return "-"
    return f"{1000 * seconds:,.0f}" if seconds >= 0.1 else f"{1000 * seconds:.3g}"


def _size(count: int | None) -> str:
    """Bytes for people; "-" where the system did not tell them."""
    return "-" if count is None else size_text(count)
