"""Write documents, CSV files and pictures from the result files.

    python -m benchmarks.reports [--check] [REPORT ...]

Rewrites the marked blocks of the pages (listed in benchmarks/pages.py), the CSV files in
docs/evidence/data and the pictures, for all reports or for the named ones.
``--check`` changes nothing and fails if a page or a CSV file differs from the result files.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from benchmarks import pages
from benchmarks.commands import parser_of

__all__ = ["REPORTS", "main", "sections_of", "tables_of"]

REPORTS = (
    "default",
    "equal_kl",
    "growth",
    "kept",
    "kinds",
    "noise",
    "prompted",
    "rivals",
    "same_rows",
    "tuners",
)


def sections_of(report: str) -> pages.Sections:
    """Return the blocks that a report makes."""
    return getattr(importlib.import_module(f"benchmarks.reports.{report}"), "SECTIONS", {})


def tables_of(report: str) -> pages.Tables:
    """Return the CSV files that a report makes."""
    return getattr(importlib.import_module(f"benchmarks.reports.{report}"), "TABLES", {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of("benchmarks.reports", __doc__, direct=True)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("reports", nargs="*", metavar="REPORT", help=", ".join(REPORTS))
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.reports) - {*REPORTS})
    if unknown:
        parser.error(f"no such reports: {', '.join(unknown)}")
    for name in args.reports or REPORTS:
        report = importlib.import_module(f"benchmarks.reports.{name}")
        pages.rewrite(sections_of(name), args.check)
        pages.write_tables(tables_of(name), args.check)
        if hasattr(report, "draw") and not args.check:
            report.draw()


if __name__ == "__main__":
    main()
