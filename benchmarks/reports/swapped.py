"""Labels of rows with other people in them, over several adapters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reports.moves import share_text
from benchmarks.reports.tables import table

__all__ = ["HEAD", "rows", "totals"]

Entry = Mapping[str, Any]
Labels = Mapping[str, str]


def _depending(entries: Iterable[Entry], label: str) -> tuple[NDArray[np.float64], bool]:
    """((3, rows): of each row of a task, the swaps whose answer depends on who is in them under the
    label, the same with the original, and all; whether rows are told apart). A row has swaps of
    several kinds."""
    kinds = [(entry["adapter"], kind) for entry in entries for kind in entry["swaps"].values()]
    told = all("numbers" in kind for _, kind in kinds)
    sums: dict[tuple[str, int], list[float]] = {}
    for adapter, kind in kinds:
        now, old = (kind["results"][x] for x in (label, "original"))
        if told:
            letters = zip(kind["numbers"], now["by_row"], old["by_row"], strict=True)
            held = [(n, [a == "d", b == "d", 1]) for n, a, b in letters]
        else:
            counts = [x["depends"]["count"] for x in (now, old)]
            held = [(0, [*counts, now["depends"]["of"]])]
        for number, values in held:
            key = (adapter, number)
            before = sums.get(key, [0.0] * 3)
            sums[key] = [x + y for x, y in zip(before, values, strict=True)]
    return np.array(list(sums.values()), float).T, told


def _changes(entries: Iterable[Entry], label: str) -> tuple[int, int]:
    """(swaps that depend on it now and did not with the original, those the other way)."""
    said = [
        kind["results"][label]["change"] for entry in entries for kind in entry["swaps"].values()
    ]
    return sum(x["new"]["count"] for x in said), sum(x["gone"] for x in said)


def totals(entries: Sequence[Entry], labels: Labels) -> str:
    """Return one row for the originals and one for each bundle."""
    lines: list[list[str]] = []
    for label, name in labels.items():
        (now, old, whole), told = _depending(entries, label)
        new, gone = _changes(entries, label)
        if not lines:
            lines.append(
                ["originals", f"{whole.sum():.0f}", share_text(old, whole, told), "-", "-"]
            )
        share = share_text(now, whole, told)
        lines.append([name, f"{whole.sum():.0f}", share, str(new), str(gone)])
    return table(
        ["adapters", "swapped rows", "label depends on the person, %", "new", "gone"], lines
    )


HEAD = ["by", "of", "kind", "bundle", "rows", "moved", "new"]
"""Columns of :func:`rows`. moved: by language, labels that depend on the person; by person, labels
that differ from the label of the plain row. new: of these, the rows that the original leaves."""


def rows(entries: Sequence[Entry], labels: Labels) -> Iterator[list[object]]:
    """Yield swapped rows by the language of the rows and by the person put into them."""
    for language in sorted({entry["language"] for entry in entries}):
        mine = [entry for entry in entries if entry["language"] == language]
        for label, name in labels.items():
            (now, old, whole), _ = _depending(mine, label)
            about: list[object] = ["language", language, ""]
            if label == next(iter(labels)):
                yield [*about, "originals", f"{whole.sum():.0f}", f"{old.sum():.0f}", ""]
            new, _ = _changes(mine, label)
            yield [*about, name, f"{whole.sum():.0f}", f"{now.sum():.0f}", new]
    sums: dict[tuple[str, str, str], list[int]] = {}
    for entry in entries:
        for kind, held in entry["swaps"].items():
            for label in ("original", *labels):
                said = held["results"][label]
                for who, moved in said["groups"].items():
                    total = sums.setdefault((who, kind, label), [0, 0, 0])
                    fresh = said.get("change", {"groups": {}})["groups"].get(who, {"count": 0})
                    values = moved["moved"]["of"], moved["moved"]["count"], fresh["count"]
                    total[:] = [a + b for a, b in zip(total, values, strict=True)]
    for (who, kind, label), counts in sums.items():
        yield ["person", who, kind, labels.get(label, "originals"), *counts]
