"""Tensors that are kept bit by bit, in the manifest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from hydraopt.adapters.rawtensor import DTYPE_BYTES, MOST_NUMBERS
from hydraopt.bundle.strictjson import check, natural, one_of, text

__all__ = ["MAX_ITEMS", "MAX_RAW", "CarriedBlob", "CarriedItem"]

MAX_ITEMS: Final = 10**6
MAX_RAW: Final = MOST_NUMBERS


@dataclass(frozen=True)
class CarriedItem:
    """A tensor that is kept bit by bit.

    of: index of an earlier item of the same blob that has the same bytes and element size, if any;
        then this item adds no bytes of its own.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    of: int | None = None

    def __post_init__(self) -> None:
        text(self.key, "key of a carried tensor", empty=True)
        one_of(self.dtype, DTYPE_BYTES, f"dtype of {self.key!r}")
        check(len(self.shape) <= 64, f"shape of {self.key!r}", self.shape, "at most 64 axes")
        for size in self.shape:
            natural(size, f"shape of {self.key!r}", 0, MAX_RAW)
        check(self.nbytes <= MAX_RAW, f"size of {self.key!r}", self.nbytes, f"at most {MAX_RAW}")

    @property
    def itemsize(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.itemsize


@dataclass(frozen=True)
class CarriedBlob:
    """Tensors that the same set of tasks holds, coded together."""

    items: tuple[CarriedItem, ...]

    def __post_init__(self) -> None:
        check(0 < len(self.items) <= MAX_ITEMS, "items of a blob", len(self.items), "at least 1")
        for i, item in enumerate(self.items):
            if item.of is not None:
                natural(item.of, f"first copy of {item.key!r}", 0, i - 1)
                first = self.items[item.of]
                same = first.of is None and first.nbytes == item.nbytes
                check(same and first.itemsize == item.itemsize, f"copy {item.key!r} does not fit")
        check(self.raw_size <= MAX_RAW, "size of a blob", self.raw_size, f"at most {MAX_RAW}")

    @cached_property
    def raw_size(self) -> int:
        """Bytes of the decoded blob."""
        return sum(item.nbytes for item in self.items if item.of is None)
