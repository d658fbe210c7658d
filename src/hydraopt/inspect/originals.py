"""Bytes of the adapters in a bundle before they were merged, to compare its size with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from hydraopt.adapters.rawtensor import DTYPE_BYTES
from hydraopt.bundle.reader import Bundle

__all__ = ["Originals", "Stored", "change_of", "compared", "original_bytes", "originals_of"]

Stored = Literal["fp16", "read", "mixed"]
"""Precision in which originals count: fp16, as they were read, or both."""

NAMES: Final = {"fp16": "fp16", "read": "the bytes read", "mixed": "the originals"}


@dataclass(frozen=True)
class Originals:
    """Size of the originals of some tasks.

    size (bytes): sum over the tasks.
    stored: "fp16" where all count with two bytes a number, "read" where all count as they were
        read, because a lossless task keeps its precision, "mixed" where tasks differ.
    """

    size: int
    stored: Stored

    @property
    def name(self) -> str:
        """Name after "% of"."""
        return NAMES[self.stored]

    @property
    def column(self) -> str:
        """Heading of a column of bytes by task."""
        return "fp16 bytes" if self.stored == "fp16" else "original bytes"


def original_bytes(bundle: Bundle) -> dict[str, int]:
    """Return the bytes of each task's original: as read for a lossless task, in fp16 for others.

    In fp16 too: tasks made by a method, which are stored losslessly but are not what was read.
    """
    as_read = "method" not in bundle.recipe
    return {
        task.name: (DTYPE_BYTES[task.dtype] if task.lossless and as_read else 2) * task.numbers
        for task in bundle.manifest.tasks
    }


def originals_of(bundle: Bundle) -> Originals:
    """Return the size of all originals of a bundle, as :func:`original_bytes` counts it."""
    sizes = original_bytes(bundle)
    as_read = "method" not in bundle.recipe
    kinds = {as_read and row.lossless for row in bundle.rows}
    stored: Stored = "mixed" if len(kinds) > 1 else "read" if True in kinds else "fp16"
    return Originals(sum(sizes.values()), stored)


def compared(size: int, originals: Originals) -> str:
    """Return a size as a share of the originals: "5.00 % of the fp16 bytes, 20.0x smaller"."""
    whole = {
        "fp16": "the fp16 bytes",
        "read": "the bytes read",
        "mixed": "the originals (lossless tasks as read, others in fp16)",
    }[originals.stored]
    if not originals.size:
        return f"no part of {whole}"
    return f"{100 * size / originals.size:.2f} % of {whole}, {change_of(size, originals.size, 'x')}"


def change_of(size: int, before: int, times: str = " times") -> str:
    """Return the factor between two sizes, from 1 up: "20.0 times smaller", "1.2 times larger"."""
    low, high = sorted((max(size, 1), max(before, 1)))
    word = "smaller" if size <= before else "larger"
    return f"{high / low:.1f}{times} {word}"
