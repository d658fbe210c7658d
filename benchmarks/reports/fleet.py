"""What a fleet takes: the tables of docs/howto/fleet.md."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import SPEED
from benchmarks.reports.tables import table, wrapped

__all__ = ["SECTIONS", "block"]

_GB = 1e9


def block(result: dict[str, Any]) -> str:
    """From a result of ``python -m benchmarks.speed fleet``."""
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
    paper = result["paper"]
    measured = wrapped(
        f"Measured on {result['modules']} modules of {result['width']} x {result['width']}, rank "
        f"{result['rank']}, `--size {result['size']}`; half of the adapters are near-copies in "
        "families of ten. CPU seconds count all processes and their start."
    )
    told = wrapped(
        f"On paper, from these: {paper['adapters']:,} adapters of rank {paper['rank']} on all "
        f"linear layers of an 8B model ({paper['numbers_of_an_adapter']:,} numbers each)."
    )
    price = f"{paper['dollars_of_a_gb_a_month']:g}"
    facts = [
        ["fp16, GB", f"{paper['fp16_gb']:,}"],
        ["collection, GB", f"{paper['bundle_gb']:,}"],
        ["core hours", f"{paper['core_hours']:,}"],
        ["GB that a worker needs for all of them in one core", f"{paper['worker_gb']:,}"],
        ["adapters of one core in workers of 16 GB", f"{paper['adapters_of_a_core_at_16_gb']:,}"],
        ["GB that workers read, at most", f"{paper['read_gb']:,}"],
        ["GB of scripts between workers, at most", f"{paper['script_gb']:,}"],
        [f"dollars a month before, at {price} a GB", f"{paper['dollars_a_month_before']:,}"],
        [f"dollars a month after, at {price} a GB", f"{paper['dollars_a_month_after']:,}"],
    ]
    return "\n".join((measured, table(head, rows), told, table(["what", "value"], facts)))


def _result() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((SPEED / "fleet.json").read_text(encoding="utf-8"))
    return result


SECTIONS = {"fleet": lambda: block(_result())}
