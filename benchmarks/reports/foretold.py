"""What prompts foretell of fresh rows: the count, the likely share, and moves taken as noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.common import QUALITY
from benchmarks.reports.tables import table, wrapped

__all__ = ["SECTIONS"]

Row = Mapping[str, Any]
_WAYS: Final = {
    "changed_pct": "the count",
    "likely_pct": "the likely share",
    "as_noise_pct": "all moves as noise",
}
_SPLITS: Final = {"validation": "fresh", "train": "trained on"}


def _text(name: str, result: Mapping[str, Any]) -> str:
    rows: Sequence[Row] = result["rows"]
    test = {(x["task"], x["size"]): x for x in rows if x["split"] == "test"}
    tasks = sorted({task for task, _ in test})
    lines = [
        [said, kind, str(len(mine)), f"{np.mean([t for _, t in mine]):.1f}", *_cells(mine)]
        for split, said in _SPLITS.items()
        for kind in (*sorted({task.partition("-")[0] for task in tasks}), "all")
        if (mine := _pairs(rows, test, split, kind))
    ]
    told = sorted({x["answers"] for x in rows if x["split"] in _SPLITS})
    prompts = f"{told[0]}" if len(told) == 1 else f"{told[0]} to {told[-1]}"
    sizes = {size for _, size in test}
    about = (
        f"`{result['set']}`: {', '.join(tasks)}, each in {len(sizes)} bundles; {prompts} prompts "
        f"of each kind (`{name}`). How far each is from the share of the test rows whose answers "
        "change, root mean square, in points."
    )
    heads = ["prompts", "tasks", "bundles", "change, %", *_WAYS.values()]
    return wrapped(about) + "\n" + table(heads, lines)


def _pairs(
    rows: Sequence[Row], test: Mapping[tuple[str, str], Row], split: str, kind: str
) -> list[tuple[Row, float]]:
    """(what prompts say, percent of the test rows that change), by task and size."""
    return [
        (x, test[x["task"], x["size"]]["changed_pct"])
        for x in rows
        if x["split"] == split and kind in ("all", x["task"].partition("-")[0])
    ]


def _cells(mine: Sequence[tuple[Row, float]]) -> list[str]:
    misses = [[said[way] - truth for said, truth in mine] for way in _WAYS]
    return [f"{np.sqrt(np.square(x).mean()):.1f}" for x in misses]


def _foretold() -> str:
    files = sorted(QUALITY.glob("*.likely.json"))
    return "\n".join(_text(x.name, json.loads(x.read_text(encoding="utf-8"))) for x in files)


SECTIONS = {"foretold": _foretold}
