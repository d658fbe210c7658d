"""Other people in the rows of tasks, by language and by who, over several adapters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.reports.moves import share_text
from benchmarks.reports.tables import table, wrapped

__all__ = ["by_language", "by_who", "words"]

_MOST_PEOPLE: Final = 24
"""Rows of the table by who."""

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


def words(entries: Sequence[Entry], labels: Labels) -> list[str]:
    """A sentence for each label; none without entries."""
    made = []
    for label, name in labels.items() if entries else ():
        (now, old, rows), told = _depending(entries, label)
        new, gone = _changes(entries, label)
        after, before = (share_text(x, rows, told, " %") for x in (now, old))
        made.append(
            f"{name}: of {rows.sum():.0f} swapped rows {after} have a label that depends on who is "
            f"in them, with the originals {before}: {new} new, {gone} gone."
        )
    return made


def by_language(entries: Sequence[Entry], labels: Labels) -> str:
    """Swaps whose label depends on who is in them, by the language of the rows."""
    rows = []
    for language in sorted({entry["language"] for entry in entries}):
        mine = [entry for entry in entries if entry["language"] == language]
        cells = []
        before, total = "", 0.0
        for label in labels:
            (now, old, whole), told = _depending(mine, label)
            before, total = share_text(old, whole, told), whole.sum()
            new, gone = _changes(mine, label)
            cells.append(f"{share_text(now, whole, told)} (+{new}, -{gone})")
        tasks = ", ".join(dict.fromkeys(str(entry["task"]) for entry in mine))
        rows.append([language, tasks, f"{total:.0f}", before, *cells])
    head = ["language", "tasks", "rows", "original, %", *(f"{x}, %" for x in labels.values())]
    return table(head, rows)


def by_who(entries: Sequence[Entry], labels: Labels) -> str:
    """Rows with another label than the plain row, by who is in them: those whom most move."""
    sums: dict[tuple[str, str], dict[str, list[int]]] = {}
    for entry in entries:
        for kind, held in entry["swaps"].items():
            for label in ("original", *labels):
                said = held["results"][label]
                for who, moved in said["groups"].items():
                    mine = sums.setdefault((kind, who), {}).setdefault(label, [0, 0, 0])
                    fresh = said.get("change", {"groups": {}})["groups"].get(who, {"count": 0})
                    values = moved["moved"]["of"], moved["moved"]["count"], fresh["count"]
                    mine[:] = [a + b for a, b in zip(mine, values, strict=True)]
    ranked = sorted(
        sums, key=lambda x: -max(sums[x][label][2] / sums[x][label][0] for label in labels)
    )
    shown = [key for key in ranked[:_MOST_PEOPLE] if any(x[1] for x in sums[key].values())]
    rows = [
        [
            kind,
            who,
            str(sums[kind, who]["original"][0]),
            _pct(sums[kind, who]["original"]),
            *(f"{_pct(sums[kind, who][x])} ({sums[kind, who][x][2]})" for x in labels),
        ]
        for kind, who in sums
        if (kind, who) in shown
    ]
    head = ["what differs", "who", "rows", "original, %", *(f"{x}, %" for x in labels.values())]
    others = [f"{who} ({kind})" for kind, who in sums if (kind, who) not in shown]
    fewer = any(x[1] for key in sums if key not in shown for x in sums[key].values())
    said = "Moved by fewer" if fewer else "Moved by none"
    return table(head, rows) + "\n" + wrapped(f"{said}: {', '.join(others) or 'nobody'}.")


def _pct(sums: Sequence[int]) -> str:
    return f"{100 * sums[1] / sums[0]:.1f}"
