"""What differs from one version of the format to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from hydraopt.bundle.container import inflate
from hydraopt.coding.chunks import ChunkReader
from hydraopt.coding.stream import MOST_NUMBERS_OF_FILE, StreamReader
from hydraopt.coding.version import VERSION

__all__ = ["CURRENT", "Limit", "Rules", "at_most"]

Limit = tuple[int, int]
"""What is free, and how much more for each byte."""


def at_most(limit: Limit, size: int) -> int:
    """What a limit allows to so many bytes."""
    return limit[0] + limit[1] * size


@dataclass(frozen=True)
class Rules:
    """How files of one version are read.

    unpack: the content of the manifest's or a blob's bytes, its size if that is known, the most
    that it may be, what it is.  stream: a reader of bytes that hold so many records, which tells
    how many numbers they stand for.  check: refuses a parsed manifest of another version.
    text, numbers, carried: most bytes of the manifest's JSON, numbers of the streams, bytes of
    carried tensors.
    """

    version: int
    unpack: Callable[[bytes, int | None, int, str], bytes]
    stream: Callable[[bytes, int, Callable[[int], None]], StreamReader]
    check: Callable[[Any], None]
    text: Limit
    numbers: Limit
    carried: Limit


CURRENT: Final = Rules(
    version=VERSION,
    unpack=inflate,
    stream=ChunkReader,
    check=lambda manifest: None,
    text=(1 << 20, 64),
    numbers=MOST_NUMBERS_OF_FILE,
    carried=(1 << 24, 256),
)
