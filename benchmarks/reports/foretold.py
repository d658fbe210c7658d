"""Harm estimated on prompts against the harm on test rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.common import QUALITY
from benchmarks.pages import Table
from benchmarks.reports.tables import table

__all__ = ["SECTIONS", "TABLES", "misses", "prompts"]

Row = Mapping[str, Any]
_WAYS: Final = {
    "changed_pct": "count",
    "likely_pct": "likely share",
    "as_noise_pct": "all changes taken as noise",
}
_SPLITS: Final = {"validation": "fresh", "train": "trained on"}


def _pairs() -> Iterator[tuple[str, Row, float]]:
    """Yield (file, estimate on prompts, percentage of the test rows that change)."""
    for path in sorted(QUALITY.glob("*.likely.json")):
        rows: Sequence[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
        test = {(x["task"], x["size"]): x["changed_pct"] for x in rows if x["split"] == "test"}
        for row in rows:
            if row["split"] in _SPLITS:
                yield path.name, row, test[row["task"], row["size"]]


def misses() -> str:
    """Return the root mean square distance of each estimate from the test rows, in points."""
    found, lines = list(_pairs()), []
    for split, said in _SPLITS.items():
        mine = [(row, truth) for _, row, truth in found if row["split"] == split]
        if mine:
            far = [
                np.sqrt(np.mean([(row[way] - truth) ** 2 for row, truth in mine])) for way in _WAYS
            ]
            counts = sorted({row["answers"] for row, _ in mine})
            lines.append(
                [
                    said,
                    str(len(mine)),
                    " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1])))),
                    f"{np.mean([truth for _, truth in mine]):.1f}",
                    *(f"{x:.1f}" for x in far),
                ]
            )
    return table(["prompts", "bundles", "prompts per task", "change, %", *_WAYS.values()], lines)


def prompts() -> Table:
    """Return one row for each task, bundle and kind of prompts."""
    keys = ("task", "size", "split", "answers")
    rows = [
        [*(row[key] for key in keys), *(f"{row[way]:.4g}" for way in _WAYS), f"{truth:.4g}", name]
        for name, row, truth in _pairs()
    ]
    return [*keys, *_WAYS, "test_changed_pct", "result"], rows


SECTIONS = {"foretold": misses}
TABLES = {"foretold.csv": prompts}
