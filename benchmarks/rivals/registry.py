"""The rivals: a row here and a file beside it for each.

The file has ``rows(shape)``, which returns its compressors in the order of the tables. Files are
imported when they are needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.rivals.base import Compressor

__all__ = ["RIVALS", "SetShape", "rows_of"]


@dataclass(frozen=True)
class SetShape:
    """Number of tasks of a set, and about their rank; rows depend on both."""

    tasks: int
    rank: int


RIVALS: Final[Mapping[str, str]] = {
    "files": "the adapters' own fp16 files: as they are, zip, zstd",
    "group": "groups of few bits with a scale",
    "nf4": "QLoRA's 16 levels, arXiv 2305.14314",
    "svd": "truncated SVDs in fp16, by rank or by energy",
    "svd_group": "truncated SVDs, then 4 bits in groups",
    "coded_svd": "SVDs rounded with one slope, in a range code",
    "loraquant": "LoRAQuant, arXiv 2510.26690",
    "jd": "Compress then Serve, full and diagonal, arXiv 2407.00066",
    "heads": "HydraOpt as published, arXiv 2507.17706",
    "one_for_all": "merging methods that make one adapter of all",
    "k_merge": "K-Merge: a few adapters for all",
}
"""What a rival is, and where it is from, by the name of its file."""


def rows_of(shape: SetShape) -> list[Compressor]:
    """Return all rows, in the order of the registry."""
    files = (importlib.import_module(f"benchmarks.rivals.{name}") for name in RIVALS)
    return [row for file in files for row in file.rows(shape)]
