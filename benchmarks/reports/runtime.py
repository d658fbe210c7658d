"""The table of the runtime against PEFT, from the result files of speed/runtime.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.common import SPEED
from benchmarks.reports.tables import table

__all__ = ["SECTIONS", "runtime"]

SETS = {
    "smollm2": "SmolLM2-135M, rank 16, all linear layers",
    "examples": "SmolLM2-135M, rank 8, q and v",
    "gemma": "Gemma-3-270M, rank 8, q, k, v, o",
}


def runtime() -> str:
    """Return a table with a column for each set, a row for each number."""
    results = {name: _rows(name) for name in SETS}
    lines = [[what, *(tell(rows) for rows in results.values())] for what, tell in _NUMBERS.items()]
    heads = [f"{title}, {_of(results[x], 'memory')['tasks']} tasks" for x, title in SETS.items()]
    return table(["", *heads], lines)


def _rows(name: str) -> list[dict[str, Any]]:
    path = SPEED / f"runtime-{name}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


def _of(found: list[dict[str, Any]], what: str, **where: Any) -> dict[str, Any]:
    wanted = {"what": what, **where}
    return next(row for row in found if wanted.items() <= row.items())


def _mixed(rows: list[dict[str, Any]]) -> str:
    return f"{_of(rows, 'mixed')['throughput_ratio']:.2f}"


def _most(rows: list[dict[str, Any]]) -> str:
    row = _of(rows, "mixed")
    return f"{row['ratio_of_the_base']:.2f}" if "ratio_of_the_base" in row else "-"


def _one(rows: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{_of(rows, 'one task', rows=count)['throughput_ratio']:.2f}" for count in (1, 16)
    )


def _memory(rows: list[dict[str, Any]]) -> str:
    return f"{_of(rows, 'memory')['ratio']:.2f}"


def _cold(rows: list[dict[str, Any]]) -> str:
    row = _of(rows, "switch")
    return f"{row['cold_ms']:.1f}, {row['bytes_read']:,}"


def _warm(rows: list[dict[str, Any]]) -> str:
    return f"{_of(rows, 'switch')['warm_ms']:.2f}"


def _copies(rows: list[dict[str, Any]]) -> str:
    return str(_of(rows, "memory")["copies"])


_NUMBERS: Mapping[str, Callable[[list[dict[str, Any]]], str]] = {
    "mixed batch, 16 rows of 8 tasks, times PEFT's rate (target 1.5)": _mixed,
    "the same of the base alone, which nothing can pass": _most,
    "one task, 1 and 16 rows, times PEFT's rate (target 0.95)": _one,
    "memory of all tasks, of as many adapters in PEFT (target 0.33)": _memory,
    "cold switch, ms (target 50), and bytes read": _cold,
    "warm switch, ms (target 2)": _warm,
    "of the tasks, permuted copies": _copies,
}
SECTIONS = {"runtime": runtime}
