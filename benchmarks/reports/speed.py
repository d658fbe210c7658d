"""Describe merging and reading in a few sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.common import SPEED
from benchmarks.reports.tables import wrapped

__all__ = ["SECTIONS"]

Row = Mapping[str, Any]


def speed(result: Mapping[str, Any]) -> str:
    """Return the sentences about a result."""

    def of(what: str, data: str = "adapters") -> Row:
        return next(r for r in result["rows"] if r["what"] == what and r["data"].startswith(data))

    merged, wide = of("merge"), of("merge", "synthetic, width 4096")
    peers = {name: of(name) for name in ("lorashare", "peft svd")}
    wide_peers = {name: of(name, "synthetic, width 4096") for name in peers}
    memory, opened = of("memory"), of("read back: opened")
    return (
        f"Merging seven rank-16 adapters of Gemma-3-270M takes {merged['wall']:.1f} s on two "
        f"cores: {merged['wall_ratio_float64']:.1f} times as long as reading the files, a QR of "
        "each module and a write; "
        f"lorashare takes {peers['lorashare']['wall_ratio']:.1f} times and "
        f"PEFT's svd merge {peers['peft svd']['wall_ratio']:.1f} times our time, at width 4096 "
        f"{wide_peers['lorashare']['wall'] / wide['wall']:.0f} and "
        f"{wide_peers['peft svd']['wall'] / wide['wall']:.0f} times. A task reads back at "
        f"{opened['cpu_mnps']:.0f} million numbers a second on one core once the bundle is open, "
        f"at {of('read back: cold')['cpu_mnps']:.0f} million where it is opened for that, and at "
        f"{of('read back: first')['cpu_mnps']:.0f} million the first time in a process, which "
        "loads compiled code. Peak memory of the main process is "
        f"{memory['peak_less_inputs_mib']:.0f} MiB above the inputs "
        "(`benchmarks/results/speed/speed.json`).\n"
    )


def block() -> str:
    result = json.loads((SPEED / "speed.json").read_text(encoding="utf-8"))
    return wrapped(speed(result))


SECTIONS = {"speed": block}
