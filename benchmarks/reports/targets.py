"""Compare the runtime and the server with their targets, from the result files alone.

A row for each number with value, target, met and the result file that it is from; value and met are
null where the result is absent, or was made under other conditions than the target asks for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import SPEED

__all__ = ["TARGETS", "Target", "headline", "lines"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """One number of a result file and what it has to be.

    what: of the file's row that has it.  where: what else this row says, or has at least (a
    lower limit is written ">= x").  key: the number.  limit: "<=", ">=" or "==" and a number.
    shown: other keys of the row that a reader wants beside it.
    """

    name: str
    what: str
    key: str
    limit: tuple[str, float]
    where: Mapping[str, Any]
    shown: tuple[str, ...] = ()

    def fits(self, row: Row) -> bool:
        """Is this the row?"""
        return row["what"] == self.what and all(
            row.get(key, 0) >= value[1] if isinstance(value, tuple) else row.get(key) == value
            for key, value in self.where.items()
        )

    def met(self, value: float) -> bool:
        sign, limit = self.limit
        return _SIGNS[sign](value, limit)


_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda value, limit: value <= limit,
    ">=": lambda value, limit: value >= limit,
    "==": lambda value, limit: value == limit,
}
_ONE_CORE = {"threads": 1}
_WHOLE = {"seconds": (">=", 300), "clients": (">=", 64)}
_SPEED = "throughput_ratio"

_RUNTIME = (
    Target(
        "a mixed batch of 16 rows over 8 tasks against PEFT's",
        "mixed",
        _SPEED,
        (">=", 1.5),
        {"rows": 16, "tasks": 8},
        ("threads",),
    ),
    *(
        Target(
            f"one task against PEFT's single adapter, rows: {rows}",
            "one task",
            _SPEED,
            (">=", 0.95),
            {"rows": rows},
            ("threads",),
        )
        for rows in (1, 16)
    ),
    Target(
        "memory of all tasks attached against as many PEFT adapters",
        "memory",
        "ratio",
        ("<=", 1 / 3),
        {"peft_exported_bytes": (">=", 1)},  # then "ratio" is that to the originals
        ("tasks", "ours_bytes", "peft_bytes", "ratio_exported"),
    ),
    Target(
        "a cold switch, ms on one core",
        "switch",
        "cold_ms",
        ("<=", 50),
        _ONE_CORE,
        ("bytes_read", "cold_worst_ms"),
    ),
    Target(
        "a warm switch, ms on one core",
        "switch",
        "warm_ms",
        ("<=", 2),
        _ONE_CORE,
        ("bytes_read_warm",),  # older results have a "warm_bytes_read", which nobody measured
    ),
)
_SERVER = (
    Target(
        "answers of another task, under load",
        "answers",
        "wrong_task",
        ("==", 0),
        _WHOLE,
        ("requests", "right", "tie"),
    ),
    Target("answers that no tie explains", "answers", "unexplained", ("==", 0), _WHOLE),
    Target("requests that failed", "answers", "failed", ("==", 0), _WHOLE, ("requests",)),
    Target("bad requests not refused as they should be", "bad requests", "odd", ("==", 0), _WHOLE),
    Target(
        "growth of the server's memory, MiB a minute",
        "memory",
        "slope_mib_per_minute",
        ("<=", 1),
        _WHOLE,
        ("first_mib", "last_mib"),
    ),
    Target(
        "not a clean exit after SIGTERM", "exit", "unclean", ("==", 0), _WHOLE, ("exit_seconds",)
    ),
)
TARGETS: Mapping[str, tuple[Target, ...]] = {
    "runtime-examples.json": _RUNTIME,
    "runtime-gemma.json": _RUNTIME,
    "runtime-smollm2.json": _RUNTIME,
    "serve-load.json": _SERVER,
}
"""By result file."""


def headline(folder: Path = SPEED) -> dict[str, Any]:
    """Rows, and the result files that are absent."""
    rows, absent = [], []
    for name, targets in TARGETS.items():
        path = folder / name
        found: list[Row] = []
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))["rows"]
        else:
            absent.append(f"benchmarks/results/speed/{name}")
        rows += [_row(target, found, f"benchmarks/results/speed/{name}") for target in targets]
    return {"rows": rows, "absent": absent}


def _row(target: Target, found: list[Row], file: str) -> dict[str, Any]:
    row = next((x for x in found if target.fits(x)), {})
    value = row.get(target.key)
    sign, limit = target.limit
    return {
        "what": target.name,
        "value": value,
        "target": f"{sign} {limit:.4g}",
        "met": None if value is None else target.met(value),
        "result": file,
        **{key: row[key] for key in target.shown if key in row},
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The table."""
    for row in found["rows"]:
        met = {True: "met", False: "NOT met", None: "absent"}[row["met"]]
        value = "-" if row["value"] is None else f"{row['value']:.4g}"
        more = [f"{k} {x}" for k, x in row.items() if k not in _COLUMNS]
        yield (
            f"{row['what']:58} {value:>8}  {row['target']:>9}  {met:8} "
            f"{Path(row['result']).name:22} {', '.join(more)}"
        ).rstrip()
    for file in found["absent"]:
        yield f"absent: {file}"


_COLUMNS = ("what", "value", "target", "met", "result")
