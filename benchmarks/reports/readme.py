"""The evidence in four rows: each set at a tenth of its bytes, and against its best rival.

    python -m benchmarks.reports.readme

Writes what stands between the marks of "evidence in short"; prints it where there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.common import QUALITY
from benchmarks.quality.sets import METHOD, SETS, pinned
from benchmarks.reports.rivals import factors, scored_rivals
from benchmarks.reports.scores import NO_DROP, headline
from benchmarks.reports.tables import MISSING, table, wrapped
from benchmarks.reports.verdict import smallest

__all__ = ["SECTIONS", "in_short", "main"]

Row = Mapping[str, Any]
_SIZE = "10%"
_LARGEST = 50.0
"""Percent of fp16 up to which a rival counts at equal KL: near 8 bits a number nobody's errors show
any more, and all take the same bytes."""
_HEAD = [
    "set (tasks)",
    "size of fp16",
    "mean drop of the score [95 %]",
    "worst task's drop",
    "best rival's bytes at equal score",
    "at equal KL",
]


def in_short(folder: Path = QUALITY) -> str:
    """A row for each set of SETS that was scored at that size, and what the columns say."""
    found = headline(folder)["sets"]
    lines, others = [], []
    for name in SETS:
        row = _row(found.get(name, {}).get("rows", ()))
        if row is None:
            continue
        low, high = row["mean_drop_interval"]
        against, judged = _against(name, folder)
        others += [judged] if judged not in (name, "") else []
        lines.append(
            [
                f"`{name}` ({_scored(name, found[name]['n'])})",
                f"{row['size_pct']:.0f} %",
                f"{row['mean_drop_pct']:+.1f} % [{low:+.1f}, {high:+.1f}]",
                f"{row['worst_drop_pct']:+.1f} % ({row['worst_task']})",
                *against,
            ]
        )
    return f"{table(_HEAD, lines)}\n{_note(others)}" if lines else MISSING


def _scored(name: str, count: int) -> str:
    """How many tasks of a set were scored: "5", or "3 of 5"."""
    all_tasks = len(pinned()[name][1])
    return f"{count}" if count == all_tasks else f"{count} of {all_tasks}"


def _row(rows: Any) -> Row | None:
    mine = [row for row in rows if (row["method"], row["setting"]) == (METHOD, _SIZE)]
    return mine[0] if mine else None


def _against(name: str, folder: Path) -> tuple[list[str], str]:
    """The two factors of a set, and which set they are of: itself, or another training of it."""
    scored = [(file, x) for file, x in scored_rivals(folder) if x["recipe"] == name]
    # Its own adapters if their rivals were scored.
    scored.sort(key=lambda pair: pair[1]["set"] != name)
    if not scored:
        return ["-", "-"], ""
    file, result = scored[0]
    ours, rival = smallest(result)
    cells = ["-", "-"]
    if ours and rival:
        times = rival.size_pct / ours.size_pct
        cells[0] = f"{times:.1f} x ({rival.title})"
    nearest = next((x for x in factors(file, result) if x.size_pct <= _LARGEST), None)
    if nearest:
        cells[1] = f"{nearest.times:.1f} x ({nearest.rival})"
    return cells, result["set"]


def _note(others: list[str]) -> str:
    text = (
        "Drops are in percent of the originals' scores; negative is a gain. The last columns: the "
        f"best rival's bytes over hydraopt's, where both lose at most {NO_DROP} %; and at equal "
        f"KL, of rivals at {_LARGEST:.0f} % of fp16 or less."
    )
    if others:
        names = ", ".join(f"`{name}`" for name in others)
        text += f" Scored beside its rivals: {names}."
    return wrapped(text)


SECTIONS = {"evidence in short": in_short}


def main() -> None:
    (name,) = SECTIONS
    if pages.is_marked(name):
        pages.rewrite(SECTIONS, check=False)
    else:
        print(in_short(), end="")


if __name__ == "__main__":
    main()
