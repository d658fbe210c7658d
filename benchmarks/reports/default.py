"""The default: what was scored on either side of its limit, what is read there, what it makes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.reports.tables import MISSING, table, wrapped

__all__ = ["SECTIONS", "default"]

Row = Mapping[str, Any]


def default() -> str:
    """Three tables, from default.json alone."""
    file = QUALITY / "default.json"
    if not file.is_file():
        return MISSING
    result = json.loads(file.read_text(encoding="utf-8"))
    limit = result["limit"]["max_error"]
    return "\n".join(
        [
            "Scored, next above the limit and next below:\n",
            _scored(result["measured"], limit),
            _read_between(result["laws"]),
            _readings(result["readings"]),
            "Merged:\n",
            _merges(result["merges"]),
        ]
    )


def _drop(row: Row) -> str:
    low, high = row["mean_drop_interval"]
    return f"{row['mean_drop_pct']:+.1f} % [{low:+.1f}, {high:+.1f}]"


def _scored(rows: Sequence[Row], limit: float) -> str:
    """The sizes whose worst error is nearest to the limit on either side, of every set."""
    lines = []
    for name in dict.fromkeys(row["set"] for row in rows):
        mine = [row for row in rows if row["set"] == name]
        above = [row for row in mine if row["worst_error"] > limit]
        below = [row for row in mine if row["worst_error"] <= limit]
        nearest = [
            *sorted(above, key=lambda x: x["worst_error"])[:1],
            *sorted(below, key=lambda x: -x["worst_error"])[:1],
        ]
        lines += [
            [
                f"`{name}`",
                f"{row['size_pct']:.1f} %",
                f"{row['worst_error']:.3f}",
                f"{row['mean_error']:.3f}",
                _drop(row),
                f"{row['test_rows']:,}",
            ]
            for row in nearest
        ]
    return table(["set", "of fp16", "worst error", "mean", "mean drop", "test rows"], lines)


def _read_between(laws: Sequence[Row]) -> str:
    """How what follows was read."""
    first, *others = laws
    low, high = first["powers"]
    said = ", ".join(f"{x['power']:g} up to {x['up_to_error']:g}" for x in others)
    return wrapped(
        f"Read between them: drop = c error^p, p = {first['power']:g} [{low:g}, {high:g}] from all "
        f"sets at errors up to {first['up_to_error']:g} (with fewer rows p is {said}), c of each "
        "recipe. The range is the widest that p and c allow; size is linear in the logarithm of "
        "the error."
    )


def _readings(rows: Sequence[Row]) -> str:
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    lines = []
    for limit in dict.fromkeys(row["limit"] for row in rows):
        found = {row["recipe"]: row for row in rows if row["limit"] == limit}
        lines.append([f"{limit:g}", *(_cell(found.get(recipe)) for recipe in recipes)])
    return table(["worst error", *(f"`{recipe}`" for recipe in recipes)], lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    low, high = row["drop_range"]
    return f"{row['size_pct']:.0f} %: {row['drop_pct']:.2f} [{low:.2f}, {high:.2f}]"


def _merges(rows: Sequence[Row]) -> str:
    lines, refused = [], []
    if not rows:
        return MISSING
    for row in rows:
        if "refused" in row:
            refused.append(f"- {row['name']}: {row['refused']}.")
            continue
        mine, before = row["default"], row["before"]
        lines.append(
            [
                row["name"],
                f"{row['fp16_bytes']:,}",
                f"{mine['bytes']:,}",
                f"{mine['size_pct']:.1f} %",
                f"{mine['worst_error']:.3f}",
                f"{mine['mean_error']:.3f}",
                "refused" if "refused" in before else f"{before['worst_error']:.3f}",
                str(mine["passes"]),
            ]
        )
    head = ["adapters", "fp16 bytes", "bundle", "of fp16", "worst error", "mean"]
    text = table([*head, "worst at `--size 10%`", "passes"], lines)
    return text + ("\nRefused:\n\n" + "\n".join(refused) + "\n" if refused else "")


SECTIONS = {"default": default}
