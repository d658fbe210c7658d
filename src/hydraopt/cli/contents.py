"""Show the tasks of a bundle, and the differences between two bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydraopt.cli.common import mean_and_worst, say, show_table, size_text, worst
from hydraopt.values import counted

if TYPE_CHECKING:
    from hydraopt.inspect.listing import Difference, Listing

__all__ = ["show_difference", "show_list"]


def show_list(report: Listing) -> None:
    """Show a list of tasks."""
    errors = [row.error for row in report.tasks]
    shown, left = worst(report.tasks, lambda row: row.error)
    show_table(
        f"{counted(len(report.tasks), 'task')} in {report.path}: {report.size:,} bytes",
        ["task", "error", "own bytes", "carried bytes", "fp16 bytes", "added", "file"],
        [
            [
                row.name,
                "lossless" if row.lossless else f"{row.error:.4f}",
                f"{row.own_bytes:,}",
                f"{row.carried_bytes:,}",
                f"{row.fp16_bytes:,}",
                row.added.day if row.added else "-",
                row.added.digest if row.added else "-",
            ]
            for row in shown
        ],
    )
    if left is not None:
        say(left)
        say(f"errors  {mean_and_worst(errors)} (relative, Frobenius)")
        say(f"own     {size_text(sum(row.own_bytes for row in report.tasks))} of all tasks")
    say(f"core    {size_text(report.core_bytes)} shared by the tasks")
    say(f"base    {report.base_model or '(not named)'}")


def show_difference(report: Difference) -> None:
    """Show how two bundles differ."""
    rows: list[list[str]] = []
    rows += [[name, "added", "", "", ""] for name in report.added]
    rows += [[name, "removed", "", "", ""] for name in report.removed]
    rows += [[old, f"renamed to {new}", "", "", ""] for old, new in report.renamed.items()]
    for row in report.changed:
        errors = " -> ".join(f"{x:.4f}" for x in row.error)
        own = [a + b for a, b in zip(row.own_bytes, row.carried_bytes, strict=True)]
        sizes = " -> ".join(f"{x:,}" for x in own)
        rows.append([row.name, "changed", ", ".join(row.what), errors, sizes])
    if rows:
        columns = ["task", "is", "differs in", "error", "bytes"]
        show_table(" -> ".join(report.paths), columns, rows)
    before, after = report.size
    say(f"core    {'the same' if report.core == 'same' else 'different'}")
    say(f"same    {counted(len(report.same), 'task')}")
    say(f"size    {before:,} -> {after:,} bytes")
