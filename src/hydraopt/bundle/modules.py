"""A module of the base model that tasks change, in the manifest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from hydraopt.adapters.keys import spell
from hydraopt.adapters.model import Kind, Layout, LowRankModule, factor_path, is_entrywise
from hydraopt.bundle.strictjson import check, natural, one_of, text

__all__ = ["ModuleEntry", "default_key"]

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
