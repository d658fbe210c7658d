"""A bundle as tensors: the shared bases of each module, a task's head over them, and their cache.

Letters as in hydraopt.types; p and q are the vectors of a module's left and right basis. Tensors
lie as torch's linear product takes them, (outputs, inputs).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hydraopt.parts import SplitRecord
from hydraopt.runtime.places import Place
from hydraopt.types import Array

__all__ = ["Head", "HeadCache", "Part", "Site", "head_bytes", "nbytes_of", "part_of", "site_of"]


@dataclass(frozen=True, eq=False)
class Site:
    """A module that a bundle changes: its place in the model and the bases that tasks share there.

    left (m, p), right (q, n); None where there is none.
    """

    place: Place
    left: Tensor | None = None
    right: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return nbytes_of(self.left, self.right)


@dataclass(frozen=True, eq=False)
class Part:
    """What a task has of its own in one module: dW x = (left z + b) (y (right x) + a x).

    y (k, q), a (k, n); z (p, k), b (m, k); one or both of each pair.
    """

    site: Site
    y: Tensor | None
    a: Tensor | None
    z: Tensor | None
    b: Tensor | None

    @property
    def nbytes(self) -> int:
        return nbytes_of(self.y, self.a, self.z, self.b)

    @property
    def count(self) -> int:
        """k."""
        own = self.y if self.y is not None else self.a
        assert own is not None
        return int(own.shape[0])

    def __call__(self, x: Tensor) -> Tensor:
        """dW x for x (..., n): (..., m), never forming dW."""
        h = None if self.y is None else F.linear(F.linear(x, _given(self.site.right)), self.y)
        if self.a is not None:
            h = F.linear(x, self.a) if h is None else h + F.linear(x, self.a)
        assert h is not None
        change = None if self.z is None else F.linear(F.linear(h, self.z), _given(self.site.left))
        if self.b is not None:
            change = F.linear(h, self.b) if change is None else change + F.linear(h, self.b)
        assert change is not None
        return change


Head = Mapping[str, Part]
"""A task's parts by the model's module names; modules that it leaves alone are not in it."""


def site_of(place: Place, left: Array | None, right: Array | None) -> Site:
    """The site with its bases (m, p) and (n, q) as tensors."""
    right = None if right is None else right.T
    return Site(place, _tensor(left, place), _tensor(right, place))


def part_of(site: Site, record: SplitRecord) -> Part:
    """A record as tensors, the coefficients inside z and b.

    Parts are scaled by powers of two, which is exact, so that both sides are about equally long:
    integers in steps would leave the range of fp16.
    """
    left, right = record.left, record.right
    lengths, others = left.sizes * record.coefficients, right.sizes
    both = (lengths > 0) & (others > 0)
    ratio = np.divide(lengths, others, out=np.ones_like(lengths), where=both)
    down = np.ldexp(1.0, np.rint(0.5 * np.log2(ratio)).astype(np.int32))
    up = record.coefficients / down

    def scaled(x: Array | None, by: Array) -> Array | None:
        return None if x is None else x * by

    def turned(x: Array | None) -> Array | None:
        return None if x is None else x.T

    return Part(
        site,
        _tensor(turned(scaled(right.coordinates, down)), site.place),
        _tensor(turned(scaled(right.own, down)), site.place),
        _tensor(scaled(left.coordinates, up), site.place),
        _tensor(scaled(left.own, up), site.place),
    )


def nbytes_of(*tensors: Tensor | None) -> int:
    """Bytes of the numbers of all tensors."""
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


def _tensor(x: Array | None, place: Place) -> Tensor | None:
    if x is None:
        return None
    # A copy: contiguous, and the decoded float64 array can go.
    return torch.from_numpy(x).to(
        place.device, place.dtype, copy=True, memory_format=torch.contiguous_format
    )


def _given(basis: Tensor | None) -> Tensor:
    assert basis is not None, "coordinates without a basis"
    return basis


class HeadCache:
    """Heads by key, within ``limit`` bytes: those that were not used for longest are dropped.

    A head that alone is larger is not kept. What is in use elsewhere lives on without the cache.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._heads: OrderedDict[Hashable, Head] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._heads

    def get(self, key: Hashable) -> Head | None:
        """The head, which counts as a use; None if it is not here."""
        head = self._heads.get(key)
        if head is not None:
            self._heads.move_to_end(key)
        return head

    def put(self, key: Hashable, head: Head) -> None:
        """Keep a head that is not here yet, as the last used one."""
        if head_bytes(head) > self.limit:
            return
        self._heads[key] = head
        self.nbytes += head_bytes(head)
        while self.nbytes > self.limit:
            _, oldest = self._heads.popitem(last=False)
            self.nbytes -= head_bytes(oldest)

    def clear(self) -> None:
        """Drop all."""
        self._heads.clear()
        self.nbytes = 0


def head_bytes(head: Head) -> int:
    """Bytes of a head's own numbers."""
    return sum(part.nbytes for part in head.values())
