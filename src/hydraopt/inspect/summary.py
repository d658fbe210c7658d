"""Rows of modules condensed: by type, and the most remarkable ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["by_type", "extremes", "module_type"]

ReportRow = dict[str, Any]

_MEANS = ("a_cosine", "b_cosine", "product_cosine", "input_overlap", "output_overlap")
_SIMPLE_MEANS = ("input_chance", "output_chance")


def module_type(path: str) -> str:
    """Return the path with numbers as stars: modules of one kind in all layers have one type.

    >>> module_type("model.layers.12.self_attn.q_proj")
    'model.layers.*.self_attn.q_proj'
    """
    return re.sub(r"(?<![^.:_])\d+(?![^.:_])", "*", path)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if known else None


def by_type(modules: Sequence[ReportRow]) -> list[ReportRow]:
    """Return one row of means for each type of module (one shape), in order of appearance.

    rank, rank90, rank99: means over modules and tasks.
    sharing: sums; ``saved`` is their ratio.
    """
    groups: dict[tuple[str, int, int], list[ReportRow]] = {}
    for row in modules:
        groups.setdefault((row["type"], row["m"], row["n"]), []).append(row)
    result = []
    for (kind, m, n), rows in groups.items():
        entry: ReportRow = {"type": kind, "m": m, "n": n, "modules": len(rows)}
        for key in (*_MEANS, *_SIMPLE_MEANS):
            entry[key] = _mean([row[key] for row in rows])
        for key, column in (("rank", "ranks"), ("rank90", "rank90"), ("rank99", "rank99")):
            entry[key] = _mean([float(x) for row in rows for x in row[column]]) or 0.0
        shares = [row["sharing"] for row in rows if row["sharing"]]
        entry["sharing"] = None
        if shares:
            sums = {
                key: sum(x[key] for x in shares)
                for key in ("bytes", "private_bytes", "saved_bytes")
            }
            private = sums["private_bytes"]
            entry["sharing"] = {**sums, "saved": sums["saved_bytes"] / private if private else 0.0}
        result.append(entry)
    return result


def extremes(modules: Sequence[ReportRow]) -> list[ReportRow]:
    """Return the modules that stand out: ``{"what", "path", "value"}`` each."""
    entries: list[ReportRow] = []

    def add(what: str, values: list[tuple[float, str]], largest: bool) -> None:
        if values:
            value, path = (max if largest else min)(values)
            entries.append({"what": what, "path": path, "value": value})

    for key, name in (
        ("a_cosine", "cosine of the A's"),
        ("b_cosine", "cosine of the B's"),
        ("product_cosine", "cosine of the products"),
        ("input_overlap", "overlap of the row spaces"),
    ):
        values = [(row[key], row["path"]) for row in modules if row[key] is not None]
        add(f"highest {name}", values, True)
        add(f"lowest {name}", values, False)
    ranks = [(sum(x["rank99"]) / len(x["rank99"]), x["path"]) for x in modules if x["rank99"]]
    add("most parts for 99 % of the energy", ranks, True)
    add("fewest parts for 99 % of the energy", ranks, False)
    saved = [(x["sharing"]["saved"], x["path"]) for x in modules if x["sharing"]]
    saved = [x for x in saved if x[0] > 0]
    add("largest share saved by sharing", saved, True)
    return entries
