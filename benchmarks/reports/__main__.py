"""Result files to documents and pictures.

    python -m benchmarks.reports [--check] [REPORT ...]

Rewrites what stands between the marks of the pages (benchmarks/pages.py says which), the
leaderboard, and the pictures; all reports unless some are named. ``--check`` changes nothing and
fails where a page differs from the result files.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from benchmarks import pages
from benchmarks.commands import parser_of

__all__ = ["REPORTS", "main", "sections_of"]

REPORTS = (
    "alike",
    "bdrate",
    "chunks",
    "default",
    "evidence",
    "fleet",
    "folders",
    "foretold",
    "head_map",
    "kept",
    "kinds",
    "people",
    "prompted",
    "readme",
    "recovery",
    "rivals",
    "runtime",
    "scaling",
    "speed",
    "studies",
    "tuners",
    "verdict",
    "ways",
)
_BOARD = "leaderboard"
"""A page of its own."""


def sections_of(report: str) -> pages.Sections:
    """The blocks that a report makes."""
    found: pages.Sections = importlib.import_module(f"benchmarks.reports.{report}").SECTIONS
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("benchmarks.reports", __doc__, direct=True)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("reports", nargs="*", metavar="REPORT", help=", ".join((*REPORTS, _BOARD)))
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.reports) - {*REPORTS, _BOARD})
    if unknown:
        parser.error(f"no such reports: {', '.join(unknown)}")
    for name in args.reports or (*REPORTS, _BOARD):
        report = importlib.import_module(f"benchmarks.reports.{name}")
        if name == _BOARD:
            report.write(args.check)
            continue
        pages.rewrite(report.SECTIONS, args.check)
        if hasattr(report, "draw") and not args.check:
            report.draw()


if __name__ == "__main__":
    main()
