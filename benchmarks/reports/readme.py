"""The evidence in four rows: each set at a tenth of its bytes.

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
from benchmarks.reports.scores import headline
from benchmarks.reports.tables import CHANGED, MISSING, changed, table, wrapped

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
    CHANGED,
    "KL, nats a token",
]


def in_short(folder: Path = QUALITY) -> str:
    """Return a row for each set of SETS that was scored at that size, and the note below them.

    All numbers of a row are from one sample of test rows.
    """
    found = headline(folder)["sets"]
    lines = []
    for name in SETS:
        row = _row(found.get(name, {}).get("rows", ()))
        if row is None:
            continue
        low, high = row["mean_drop_interval"]
        lines.append(
            [
                f"`{name}` ({_scored(name, found[name]['n'])})",
                f"{row['size_pct']:.0f} %",
                f"{row['mean_drop_pct']:+.1f} % [{low:+.1f}, {high:+.1f}]",
                f"{row['worst_drop_pct']:+.1f} % ({row['worst_task']})",
                changed(row),
                f"{row['kl']:.2g}",
            ]
        )
    return f"{table(_HEAD, lines)}\n{_note(folder)}" if lines else MISSING


def _scored(name: str, count: int) -> str:
    """How many tasks of a set were scored: "5", or "3 of 5"."""
    all_tasks = len(pinned()[name][1])
    return f"{count}" if count == all_tasks else f"{count} of {all_tasks}"


def _row(rows: Any) -> Row | None:
    mine = [row for row in rows if (row["method"], row["setting"]) == (METHOD, _SIZE)]
    return mine[0] if mine else None


def _times(folder: Path) -> list[float]:
    """How many times hydraopt's bytes the best rival of each set takes at equal KL."""
    best = []
    for file, result in scored_rivals(folder):
        small = [x.times for x in factors(file, result) if x.size_pct <= _LARGEST]
        best += [min(small)] if small else []
    return sorted(best)


def _note(folder: Path) -> str:
    text = (
        "Drops are in percent of the originals' scores; negative is a gain. The numbers of a row "
        "are from one sample; `-` was not measured."
    )
    if times := _times(folder):
        text += (
            f" For the same KL, the best other method needs {times[0]:.1f} to {times[-1]:.1f} "
            "times as many bytes as hydraopt, depending on the set; methods that need more than "
            f"{_LARGEST:.0f} % of the fp16 size are left out. None of them uses entropy coding."
        )
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
