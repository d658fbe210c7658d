"""What refits gain from few real prompts with synthetic ones beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.common import QUALITY
from benchmarks.quality.few_prompts import gains
from benchmarks.reports.tables import MISSING, table

__all__ = ["SECTIONS", "few"]

_HEAD = [
    "set, tasks, size", "real prompts", "synthetic", "refits kept", "KL, of no prompts", "gain",
]  # fmt: skip


def _line(
    about: str, count: str, gain: Mapping[str, Any], rows: list[Mapping[str, Any]]
) -> list[str]:
    factor, low, high = gain["kl_factor"]
    return [
        about,
        count,
        f"{sum(row['synthetic'] for row in rows) / len(rows):.0f}",
        f"{sum(row['refitted'] for row in rows)} of {len(rows)}",
        f"x {factor:.2f} [{low:.2f}, {high:.2f}]",
        f"{100 * gain['share_of_gain']:.0f} %",
    ]


def few() -> str:
    """Return a row for each number of real prompts of each set."""
    lines = []
    for file in sorted(QUALITY.glob("*.few-prompts.json")):
        result = json.loads(file.read_text())
        tasks = result["tasks"]
        about = f"`{file.name.partition('.')[0]}`, {len(tasks)}, {result['size']}"
        for count, gain in gains(tasks).items():
            lines.append(_line(about, count, gain, [x[count] for x in tasks.values()]))
    return table(_HEAD, lines) if lines else MISSING


SECTIONS = {"few prompts": few}
