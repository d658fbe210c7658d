"""Sides of coded parts while a refit trains them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hydraopt.coding.forms import Way
from hydraopt.compress.recode import CodedModule, Recoded, recode
from hydraopt.linalg.basis import Basis
from hydraopt.linalg.shapes import Factors
from hydraopt.linalg.svd import halved, thin

__all__ = ["Sides", "as_coded", "strongest"]


def strongest(coded: CodedModule, original: tuple[Any, Any]) -> Factors:
    """Return the original's strongest parts, projected into the space of shared sides.

    Returns the coded parts if the original has fewer.
    """
    whole = thin(*(np.asarray(x, np.float64) for x in original))
    u, v, record = whole.U * whole.s, whole.V, coded.record
    if record.left.way is Way.SHARED and coded.left is not None:
        u = coded.left.orthonormal @ (coded.left.orthonormal.T @ u)
    if record.right.way is Way.SHARED and coded.right is not None:
        v = coded.right.orthonormal @ (coded.right.orthonormal.T @ v)
    parts = thin(u, v.T)
    if parts.s.size < record.count:
        return as_coded(coded)
    return halved(parts.U, parts.s, parts.V.T, record.count)


def as_coded(coded: CodedModule) -> Factors:
    """Return the coded parts, both sides of each of one length."""
    factors = coded.record.factors
    even = np.sqrt(
        np.linalg.norm(factors.A, axis=1) / np.maximum(np.linalg.norm(factors.B, axis=0), 1e-300)
    )
    return Factors(factors.B * even, factors.A / even[:, None])


class Sides:
    """Both sides of a module's parts while they are trained.

    left (m, k) or (p, k), right (n, k) or (q, k): in units of their root mean square at the start;
    of a shared side, its coordinates over an orthonormal basis of the shared space.
    """

    def __init__(self, coded: CodedModule, start: Factors) -> None:
        """Start from B (m, k), A (k, n), the parts at the beginning of the training."""
        self._coded = coded
        b, a = (torch.tensor(x, dtype=torch.float32) for x in (start.B, start.A.T))
        record = coded.record
        self._shared_bases = (
            _shared_basis(record.left.way, coded.left),
            _shared_basis(record.right.way, coded.right),
        )
        coordinates = self._projected((b, a))
        self._units = [float(x.square().mean().sqrt()) or 1.0 for x in coordinates]
        self.left, self.right = (
            (x / unit).requires_grad_() for x, unit in zip(coordinates, self._units, strict=True)
        )
        self._rounding = [torch.zeros_like(x) for x in coordinates]
        self._frozen: Recoded | None = None

    def recode(self) -> Recoded:
        """Code the sides as they are, and remember what that does to them."""
        if self._frozen is not None:
            return self._frozen
        with torch.no_grad():
            b, a = (x.double().numpy() for x in self._expanded(self._scaled()))
        coded = recode(Factors(b, a.T), self._coded)
        rounded = coded.factors.B, coded.factors.A.T
        coordinates = self._projected([torch.tensor(x, dtype=torch.float32) for x in rounded])
        with torch.no_grad():
            self._rounding = [x - y for x, y in zip(coordinates, self._scaled(), strict=True)]
        return coded

    def freeze(self) -> None:
        """Freeze the parts at their current coded values."""
        self._frozen = self.recode()

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return B (m, k) and A (k, n) as rounded, with gradients as if they were not."""
        if self._frozen is not None:
            factors = self._frozen.factors
            b, a = (torch.tensor(x, dtype=torch.float32) for x in (factors.B, factors.A))
            return b, a
        b, a = self._expanded(
            [x + rounding for x, rounding in zip(self._scaled(), self._rounding, strict=True)]
        )
        return b, a.T

    def _scaled(self) -> list[Tensor]:
        return [x * unit for x, unit in zip((self.left, self.right), self._units, strict=True)]

    def _projected(self, sides: Sequence[Tensor]) -> list[Tensor]:
        bases = zip(sides, self._shared_bases, strict=True)
        return [x if q is None else q.T @ x for x, q in bases]

    def _expanded(self, coordinates: Sequence[Tensor]) -> list[Tensor]:
        bases = zip(coordinates, self._shared_bases, strict=True)
        return [x if q is None else q @ x for x, q in bases]


def _shared_basis(way: Way, basis: Basis | None) -> Tensor | None:
    """Return an orthonormal basis (N, q) of what a shared side can be; None for any other side."""
    if way is not Way.SHARED or basis is None:
        return None
    return torch.tensor(basis.orthonormal, dtype=torch.float32)
