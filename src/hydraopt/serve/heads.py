"""Tensors of a bundle: shared bases of each module, heads of tasks over them, and a cache.

Letters as in linalg.shapes; p and q are the vectors of a module's left and right basis. Tensors
lie as torch's linear product takes them, (outputs, inputs).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hydraopt.codec import Array, Numbers, SplitRecord, SplitSide
from hydraopt.serve.places import ModulePlace


@dataclass(frozen=True, eq=False)
class Site:
    """Module that a bundle changes: its place in the model and the shared bases of its tasks.

    left (m, p), right (q, n); None where there is none.
    """

    place: ModulePlace
    left: Tensor | None = None
    right: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return nbytes_of(self.left, self.right)


@dataclass(frozen=True, eq=False)
class ModuleHead:
    """Parts of a task in one module: dW x = (left z + b) (y (right x) + a x).

    y (k, q), a (k, n); z (p, k), b (m, k); at least one of y and a, and at least one of z and b.
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
        """Number of parts, k."""
        own = self.y if self.y is not None else self.a
        assert own is not None
        return int(own.shape[0])

    def __call__(self, x: Tensor) -> Tensor:
        """Return dW x for x (..., n): (..., m), never forming dW."""
        h = None if self.y is None else F.linear(F.linear(x, given(self.site.right)), self.y)
        if self.a is not None:
            h = F.linear(x, self.a) if h is None else h + F.linear(x, self.a)
        assert h is not None
        change = None if self.z is None else F.linear(F.linear(h, self.z), given(self.site.left))
        if self.b is not None:
            change = F.linear(h, self.b) if change is None else change + F.linear(h, self.b)
        assert change is not None
        return change

    def multiplied_out(self) -> ModuleHead:
        """Return the same change with the bases multiplied in: a (k, n) and b (m, k) alone."""
        a, b = self.a, self.b
        # Kept for later calls, whatever mode this one is in.
        plain = torch.autocast(self.site.place.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), plain:
            if self.y is not None:
                over = self.y @ given(self.site.right)
                a = over if a is None else over.add_(a)
            if self.z is not None:
                over = given(self.site.left) @ self.z
                b = over if b is None else over.add_(b)
        return ModuleHead(self.site, None, a, None, b)


@dataclass(frozen=True, eq=False)
class ReplacedModule:
    """Module that a task replaces. own: its tensors, by their names in the module.

    The model's module stays as it is: a copy with the task's tensors computes the output anew.
    """

    module: nn.Module
    own: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        return nbytes_of(*self.own.values())

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        """Return the module's output for x with the task's tensors, in the output's type."""
        twin = copy.copy(self.module)
        twin._parameters = {**self.module._parameters, **self._parameters}
        # Not the copy's own forward, which other libraries bind to the module that they hooked.
        result: Tensor = type(self.module).forward(twin, x)
        return result.to(output.dtype)

    @cached_property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: nn.Parameter(x, requires_grad=False) for name, x in self.own.items()}


Head = Mapping[str, ModuleHead | ReplacedModule]
"""Parts of a task, by module name in the model, without modules that the task does not change."""


def site_of(place: ModulePlace, left: Array | None, right: Array | None) -> Site:
    """Return the site with its bases (m, p) and (n, q) as tensors."""
    right = None if right is None else right.T
    return Site(place, _tensor(left, place), _tensor(right, place))


def module_head(site: Site, record: SplitRecord) -> ModuleHead:
    """Return a record as tensors, the coefficients inside z and b.

    In fp16, whose range integers in steps would leave, parts are scaled by powers of two, which is
    exact, so that both sides are about equally long.
    """
    left, right = record.left, record.right
    down, up = np.ones(record.count), record.coefficients
    if site.place.dtype is torch.float16:
        down = _balance(_energies(left), _energies(right), record.coefficients)
        up = record.coefficients / down
    return ModuleHead(
        site,
        _scaled(right.coordinates, down, site.place, turned=False),
        _scaled(right.own, down, site.place, turned=False),
        _scaled(left.coordinates, up, site.place, turned=True),
        _scaled(left.own, up, site.place, turned=True),
    )


def _energies(side: SplitSide) -> Array:
    """Return (k,): squared lengths of the columns, as if basis and own numbers were orthonormal."""
    numbers = [x.astype(np.float64) for x in (side.coordinates, side.own) if x is not None]
    energies: Array = sum(np.einsum("nk,nk->k", x, x) for x in numbers)
    return energies


def _scaled(x: Numbers | None, by: Array, place: ModulePlace, turned: bool) -> Tensor | None:
    """Return the columns of x (N, k) times ``by`` as a tensor (k, N), or turned, (N, k)."""
    if x is None:
        return None
    wide = np.float64 if place.dtype is torch.float64 else np.float32
    out = np.empty(x.shape if turned else x.shape[::-1], wide)
    np.multiply(x.T, by[:, None], out=out.T if turned else out, casting="same_kind")
    return torch.from_numpy(out).to(place.device, place.dtype)


def _balance(left: Array, right: Array, coefficients: Array) -> Array:
    """Return powers of two (k,) for the right sides that make both sides about equally long.

    left, right: squared lengths, the left without its coefficients.
    """
    energy = left * coefficients**2
    both = (energy > 0) & (right > 0)
    ratio = np.divide(energy, right, out=np.ones(energy.size), where=both)
    down: Array = 2.0 ** np.rint(0.25 * np.log2(ratio))
    return down


def nbytes_of(*tensors: Tensor | None) -> int:
    """Return the number of bytes of the numbers of all tensors."""
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


def _tensor(x: Array | None, place: ModulePlace) -> Tensor | None:
    if x is None:
        return None
    # A copy: contiguous, and the decoded float64 array can go.
    return torch.from_numpy(x).to(
        place.device, place.dtype, copy=True, memory_format=torch.contiguous_format
    )


def given(basis: Tensor | None) -> Tensor:
    """Return the basis that coordinates are over."""
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
        """Return the head, which counts as a use; None if it is not here."""
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
    """Return the number of bytes of a head's own numbers."""
    return sum(own.nbytes for own in head.values())
