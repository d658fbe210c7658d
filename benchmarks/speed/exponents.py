"""Compute ratios to hydraopt, and exponents along one axis, from the cells of scaling.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["OPERATIONS", "OURS", "PLACE", "cell_of", "exponent", "exponents", "with_ratios"]

Row = Mapping[str, Any]
Points = Sequence[tuple[float, float]]

OURS = "hydraopt"
AXES = ("tasks", "rank", "width")
OPERATIONS = ("merge", "cold_open", "cold_task", "open", "task", "export")
PLACE = ("shape", "width", "modules", "rank", "tasks")
"""What names a cell."""


def with_ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows with ``OPERATION_ratio``.

    The ratio is of wall seconds to hydraopt's in the same cell, where both ended.
    """
    ours = {cell_of(row): row for row in rows if row["tool"] == OURS}
    found = []
    for row in rows:
        base = ours.get(cell_of(row), {})
        ratios = {
            f"{name}_ratio": round(row[f"{name}_wall"] / base[f"{name}_wall"], 3)
            for name in OPERATIONS
            if f"{name}_wall" in row and base.get(f"{name}_wall")
        }
        found.append({**row, **ratios})
    return found


def cell_of(row: Row) -> tuple[Any, ...]:
    """Return what the rows of one cell have in common."""
    return tuple(row[name] for name in PLACE)


def exponent(points: Points) -> tuple[float, float]:
    """Return (p, spread) of the least-squares line log y = p log x + c through points (x, y).

    Points have y > 0. spread: the largest factor by which a point lies off the line; 1 is on it.
    Raises ValueError with less than two different x.
    """
    x, y = np.log(np.array(points, np.float64).reshape(-1, 2)).T
    if np.unique(x).size < 2:
        raise ValueError(f"an exponent needs two different x, found {np.unique(x).size}")
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(np.exp(np.abs(y - slope * x - intercept).max()))


def exponents(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the exponent of every tool, operation and axis, along rows alike in all else.

    at: what the others are. Runs that did not end are left out, and ``points`` says how many did.
    """
    lines: dict[tuple[Any, ...], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        for axis in AXES:
            at = tuple((name, row[name]) for name in PLACE if name != axis)
            for operation in OPERATIONS:
                seconds = row.get(f"{operation}_wall")
                if seconds:
                    key = row["tool"], operation, axis, at
                    lines[key].append((row[axis], seconds))
    found = []
    for (tool, operation, axis, at), points in lines.items():
        if len({x for x, _ in points}) < 2:
            continue
        slope, spread = exponent(points)
        found.append(
            {
                "tool": tool,
                "operation": operation,
                "axis": axis,
                "at": dict(at),
                "exponent": round(slope, 3),
                "spread": round(spread, 3),
                "points": len(points),
            }
        )
    return found
