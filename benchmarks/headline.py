"""Print the main numbers of all results as one JSON object, from the result files alone.

    python -m benchmarks.headline [--json]

``{"sets": {NAME: {"n": tasks, "rows": [...]}}, "speed": {"rows": [...], "absent": [...]}}``: scores
as benchmarks/reports/scores.py says, the runtime and the server against their targets as
benchmarks/reports/targets.py says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.commands import parser_of
from benchmarks.reports import scores, targets

__all__ = ["headline", "lines", "main"]


def headline() -> dict[str, Any]:
    """What --json prints."""
    return {**scores.headline(), "speed": targets.headline()}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The same as text."""
    for name, entry in found["sets"].items():
        yield f"{name}: {entry['n']} tasks"
        for row in entry["rows"]:
            low, high = row["mean_drop_interval"]
            yield (
                f"  {row['method']:16} {row['size_pct']:7.2f} %  mean drop "
                f"{row['mean_drop_pct']:6.2f} [{low:6.2f}, {high:6.2f}]  worst "
                f"{row['worst_drop_pct']:6.2f} ({row['worst_task']})  same token "
                f"{row['top1_agreement_pct']:.2f} %  answers changed {_changed(row)}"
            )
    yield "speed:"
    yield from (f"  {line}" for line in targets.lines(found["speed"]))


def _changed(row: Mapping[str, Any]) -> str:
    share = row["changed_pct"]
    return "not measured" if share is None else f"{share:.2f} %"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("benchmarks.headline", __doc__, direct=True)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    found = headline()
    if parser.parse_args(arguments).json:
        print(json.dumps(found, indent=1))
        return
    for line in lines(found):
        print(line)


if __name__ == "__main__":
    main()
