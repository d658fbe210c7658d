"""Entries of the manifest: harm, history, modules, carried tensors, ranks.

A task's answers are the original adapter's own greedy ones; docs/reference/format.md is the
normative text for the stored values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any, Final, Literal, get_args

from hydraopt.adapters import (
    DTYPE_BYTES,
    MOST_NUMBERS,
    Kind,
    Layout,
    LowRankModule,
    factor_path,
    is_entrywise,
    spell,
)
from hydraopt.bundle.encoding import amount, check, digest, natural, one_of, text

ANSWER_TOKENS: Final = 128
"""Default maximum number of tokens per answer that are judged."""
MOST_ANSWER_TOKENS: Final = 1024
"""Largest number of tokens per answer that can be judged."""
MAX_ANSWERS: Final = 10**9


@dataclass(frozen=True, slots=True)
class Harm:
    """Effect of a task's coded weights on the answers of its original adapter.

    changed: number of answers in which some token is no longer the most likely one.
    answers: number of measured answers, at least 1.
    likely: expected share of answers that change, 0 to 1; it is finer than the count.
    kl: KL(original || coded), nats per answer.
    held_out: True if nothing was trained on any of the answers. A refit may still have used them to
    choose where to stop.

    Raises BundleFormatError for other values.
    """

    changed: int
    answers: int
    likely: float
    kl: float
    held_out: bool

    def __post_init__(self) -> None:
        natural(self.answers, "answers of a harm", 1, MAX_ANSWERS)
        natural(self.changed, "answers that change", 0, self.answers)
        amount(self.likely, "likely share of answers that change")
        check(self.likely <= 1, "likely share of answers that change", self.likely, "0 to 1")
        amount(self.kl, "KL an answer")
        check(type(self.held_out) is bool, "held_out of a harm", self.held_out, "true or false")

    def snapped(self) -> Harm:
        """Return the harm at the manifest's precision: ``likely`` and ``kl`` to three digits."""
        likely, kl = (float(f"{x:.3g}") for x in (self.likely, self.kl))
        return Harm(self.changed, self.answers, likely, kl, self.held_out)


# --- in a recipe, whose contents hydraopt.merging.limits defines ------------------------------


def answer_tokens_in(recipe: Mapping[str, Any]) -> int:
    """Return the recipe's maximum number of judged tokens per answer, or the usual number."""
    value = recipe.get("answer_tokens")
    return value if type(value) is int and 0 < value <= MOST_ANSWER_TOKENS else ANSWER_TOKENS


def states_estimates(recipe: Mapping[str, Any]) -> bool:
    """Return True if the errors in the manifest are estimates, as after shrink."""
    return bool(recipe.get("errors") == "estimated")


@dataclass(frozen=True)
class Added:
    """Origin of a task that was added after the merge.

    day: date, ISO, in UTC. It has no time of day, so that the result of several additions on one
    day does not depend on their order.
    digest: first 16 hex digits of the sha256 of the adapter's tensor file.

    Raises BundleFormatError for other values.
    """

    day: str
    digest: str

    def __post_init__(self) -> None:
        text(self.day, "day of an addition")
        try:
            # Other spellings that fromisoformat takes are not the one of the format.
            right = date.fromisoformat(self.day).isoformat() == self.day
        except ValueError:
            right = False
        check(right, "day of an addition", self.day, "YYYY-MM-DD")
        digest(self.digest, "digest of an addition")


MAX_SIDE: Final = 1 << 24
MAX_GROUPS: Final = 1 << 20

Half = Literal["A", "B"]


@dataclass(frozen=True)
class ModuleEntry:
    """A module of the base model that some task changes by a low-rank dW (m, n).

    path, kind, m, n, layout, group, groups: as in :class:`hydraopt.adapters.LowRankModule`.
    a_tail: kernel axes of a convolution's A, (kh, kw), whose product divides n; else ().
    """

    path: str
    kind: Kind
    m: int
    n: int
    layout: Layout = "plain"
    group: int = 0
    groups: int = 1
    a_tail: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        text(self.path, "path of a module")
        one_of(self.kind, get_args(Kind), f"kind of {self.path!r}")
        one_of(self.layout, get_args(Layout), f"layout of {self.path!r}")
        for name, value in (("m", self.m), ("n", self.n)):
            natural(value, f"{name} of {self.path!r}", 1, MAX_SIDE)
        natural(self.groups, f"groups of {self.path!r}", 1, MAX_GROUPS)
        natural(self.group, f"group of {self.path!r}", 0, self.groups - 1)
        for size in self.a_tail:
            natural(size, f"kernel of {self.path!r}", 1, MAX_SIDE)
        # Without its kernel a convolution could not be exported again.
        conv = self.kind == "conv"
        check(conv == bool(self.a_tail), f"kernel of {self.path!r}", self.a_tail, "if it is a conv")
        fits = len(self.a_tail) <= 8 and self.n % math.prod(self.a_tail) == 0
        check(fits, f"kernel of {self.path!r}", self.a_tail, f"axes that divide {self.n}")

        if self.layout == "factor":
            fine = self.kind == "linear" and self.groups == 2 and bool(self.stem)
            names = (factor_path(self.stem, self.group, x) for x in (None, (self.m, self.n)))
            fine = fine and self.path in names
            check(fine, f"factor {self.path!r}", self.group, "a path that ends in ::w1 or ::w2")
        if self.layout == "rows" and not conv:
            # The slot of a fused projection is its name's end.
            slot = self.path.rpartition("::")[2]
            fine = slot.isascii() and slot.isdecimal() and len(slot) <= 7
            check(fine, f"group of {self.path!r}", self.layout, "a path that ends in ::GROUP")

    @classmethod
    def of(cls, module: LowRankModule) -> ModuleEntry:
        """Return the entry of an adapter's module; MLX's transposed storage counts as plain."""
        x = module
        tail = x.a.shape[2:] if x.kind == "conv" else ()
        layout: Layout = "plain" if x.layout == "transposed" else x.layout
        return cls(x.path, x.kind, x.m, x.n, layout, x.group, x.groups, tail)

    @property
    def stem(self) -> str:
        """Path without its group ("::2"), to which the stored pair belongs."""
        return self.path.partition("::")[0]

    @property
    def entrywise(self) -> bool:
        """True for a factor of an entrywise product (LoHa), not of a Kronecker product (LoKr)."""
        return self.layout == "factor" and is_entrywise(self.path)


def default_key(module: ModuleEntry, half: Half) -> str:
    """Return the default PEFT key of A or B of a module; a task's ``keys`` may replace it."""
    return spell(module.stem, half, module.kind == "embedding")


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


_MOST_RANK: Final = (1 << 31) - 1


@dataclass(frozen=True)
class KeptRanks:
    """Rank and scale that the config of an adapter gives each of its modules.

    rank, scale: of all modules that ``exceptions`` does not name.
    exceptions: (rank, scale) by module path, each different from ``(rank, scale)``.

    The scale of a product of two factors is the same for both.
    """

    rank: int
    scale: float
    exceptions: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rank, scale in ((self.rank, self.scale), *self.exceptions.values()):
            natural(rank, "a kept rank", 0, _MOST_RANK)
            amount(scale if type(scale) is bool else abs(scale), "size of a kept scale")
        alike = (self.rank, self.scale) in self.exceptions.values()
        check(not alike, "a kept rank is stated twice", self.exceptions)

    @classmethod
    def of_modules(cls, values: Mapping[str, tuple[int, float]]) -> KeptRanks:
        """Take the most common (rank, scale) for the default; ``values`` are by module path."""
        counts = Counter(values.values())
        usual = max(sorted(counts), key=counts.__getitem__) if counts else (1, 1.0)
        return cls(*usual, {path: x for path, x in values.items() if x != usual})

    def of(self, path: str) -> tuple[int, float]:
        """Return (rank, scale) of a module."""
        return self.exceptions.get(path, (self.rank, self.scale))

    def to_json(self, index: Mapping[str, int]) -> list[Any]:
        """Convert to JSON values; index: number of each module by path."""
        exceptions = sorted((index[path], *values) for path, values in self.exceptions.items())
        return [self.rank, self.scale, *map(list, exceptions)]

    @classmethod
    def from_json(cls, value: Any, modules: Sequence[ModuleEntry]) -> KeptRanks | None:
        """Convert JSON values; raise BundleFormatError for anything else."""
        if value is None:
            return None
        what = "[rank, scale, [module, rank, scale], ...]"
        check(isinstance(value, list) and len(value) >= 2, "kept ranks", value, what)
        exceptions, last = dict[str, tuple[int, float]](), -1
        for row in value[2:]:
            check(isinstance(row, list) and len(row) == 3, "kept ranks", row, what)
            natural(row[0], "module of a kept rank", last + 1, len(modules) - 1)
            last = row[0]
            exceptions[modules[last].path] = _values(*row[1:])
        return cls(*_values(*value[:2]), exceptions)


def _values(rank: Any, scale: Any) -> tuple[int, float]:
    check(type(scale) in (int, float), "a kept scale", scale, "a number")
    amount(abs(scale), "size of a kept scale")  # before it becomes a float
    return rank, float(scale)
