"""Time and memory of merges of many adapters: the tables of docs/evidence/speed.md."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import SPEED
from benchmarks.reports.tables import table, wrapped

__all__ = ["SECTIONS", "block"]

_GB = 1e9


def block(result: dict[str, Any]) -> str:
    """Return the text of a result of ``python -m benchmarks.speed fleet``."""
    rows = [
        [
            f"{row['tasks']:,}",
            str(row["workers"]),
            f"{sum(row['cpu']):.1f}",
            ", ".join(f"{peak / _GB:.2f}" for peak in row["peaks"]),
            f"{1e6 * sum(row['cpu']) / row['numbers']:.2f}",
        ]
        for row in result["rows"]
    ]
    head = ["adapters", "workers", "CPU seconds", "peak GB of each process", "us a number"]
    measured = wrapped(
        f"Measured on {result['modules']} modules of {result['width']} x {result['width']}, rank "
        f"{result['rank']}, `--size {result['size']}`, {result['memory']} of memory; half of the "
        "adapters are near-copies in families of ten. CPU seconds count all processes and their "
        "start."
    )
    parts = [measured, table(head, rows)]
    if small := result["small"]:
        width, memory = small["width"], ", ".join(f"{x / _GB:.2f}" for x in small["peaks"])
        parts.append(
            wrapped(
                f"{small['tasks']:,} adapters of {small['modules']} modules of {width} x {width}, "
                f"rank {result['rank']}, into a collection, {small['workers']} workers: "
                f"{small['wall'] / 60:.1f} minutes on the clock of a busy machine, "
                f"{sum(small['cpu']):.0f} CPU seconds, at most {memory} GB in each process."
            )
        )
    if forty := result["forty"]:
        told = [
            f"{row['workers']} worker{'s'[: row['workers'] - 1]} {row['wall']:.1f} s on the clock "
            f"and {' + '.join(f'{x:.1f}' for x in row['cpu'] if x)} CPU seconds"
            for row in forty
        ]
        parts.append(
            wrapped(f"The forty real adapters of `gemma3-5x8` at 10 %: {'; '.join(told)}.")
        )
    if paper := result["paper"]:
        parts.append(_paper(paper))
    return "\n".join(parts)


def _paper(paper: dict[str, Any]) -> str:
    return wrapped(
        f"Extrapolated from the rows of one worker: {paper['adapters']:,} adapters of rank "
        f"{paper['rank']} on all linear layers of an 8B model "
        f"({paper['numbers_of_an_adapter']:,} numbers each) take {paper['fp16_gb']:,} GB in fp16 "
        f"and {paper['bundle_gb']:,} GB in a collection, which is merged in "
        f"{paper['core_hours']:,} core hours with {paper['read_gb']:,} GB read from adapters and "
        f"temporary files. Descriptions take {paper['known_gb']:,} GB of memory, "
        f"{paper['bytes_known']:,} bytes for each module of an adapter."
    )


def _result() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((SPEED / "fleet.json").read_text(encoding="utf-8"))
    return result


SECTIONS = {"fleet": lambda: block(_result())}
