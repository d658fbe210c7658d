"""Tables with line breaks between the parts of a name, not inside a word if there is room.

Text is never interpreted as markup, whatever a name contains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.text import Text

__all__ = ["drawn"]

_PART: Final = re.compile(r"\S.*?(?=\s|$|(?<=[._/:-])[^\W\d_]|(?<=[._/:-])\*)|\s+")
"""Parts of a name: a line may end after a mark that a letter or * follows, never in a number."""
_GAPS: Final = (3, 2)
"""Columns between two cells: usually, and if there is little room."""


def drawn(
    file: IO[str],
    width: int | None,
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    words: bool,
) -> None:
    """Draw a table.

    width: width of the page, None for that of the terminal.
    words: align all columns left; by default only the first.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, highlight=False, width=width)
    columns = [[_Cell(row[i]) for row in (headings, *rows)] for i in range(len(headings))]
    gap, widths = _fitted(columns, console.width)
    padding = (0, 1) if gap == _GAPS[0] else (0, 0, 0, 1)
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=padding)
    for i, (column, cells_wide) in enumerate(zip(columns, widths, strict=True)):
        table.add_column(
            column[0],
            justify="right" if i and not words else "left",
            overflow="fold",
            width=cells_wide,
        )
    for cells in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*cells)
    console.print(table)


def _fitted(columns: Sequence[Sequence[_Cell]], room: int) -> tuple[int, list[int | None]]:
    """Return the gap between columns and their widths, none narrower than its longest part.

    The widest columns shrink first. If the table does not fit, rich chooses the widths.
    """
    least = [max(cell.least for cell in column) for column in columns]
    for gap in _GAPS:
        widths = [max(cell.most for cell in column) for column in columns]
        excess = sum(widths) + gap * len(widths) + 1 - room
        while excess > 0:
            narrower = [i for i, width in enumerate(widths) if width > least[i]]
            if not narrower:
                break
            widths[max(narrower, key=widths.__getitem__)] -= 1
            excess -= 1
        if excess <= 0:
            return gap, list(widths)
    return _GAPS[0], [None] * len(columns)


class _Cell:
    """Text with line breaks between its parts.

    least: width of the longest part. most: width of a line that holds all of them.
    """

    def __init__(self, text: str) -> None:
        from rich.cells import cell_len

        self._width = cell_len
        self._parts = _PART.findall(text)
        self.least = max((cell_len(part.rstrip()) for part in self._parts), default=0)
        self.most = cell_len(text)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        return Measurement(self.least, self.most)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        yield Text("\n".join(self._lines(options.max_width)), overflow="fold")

    def _lines(self, width: int) -> Iterator[str]:
        line = ""
        for part in self._parts:
            if line and self._width(line + part.rstrip()) > width:
                yield line.rstrip()
                line = ""
            line += part if line else part.lstrip()
        yield line.rstrip()
