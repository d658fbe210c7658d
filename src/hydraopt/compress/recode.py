"""Recode: other factors in the place of a record's, in its way of writing and at its rate.

A record of a stream says how many parts there are, how each side is written and how lively its
numbers are. Factors that take the place of those inside (hydraopt.harm.refit trains such) are
rounded to the same spread classes, so they take about the same bytes, and no other record changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hydraopt.coding.coefficients import exponents, power
from hydraopt.coding.forms import Way
from hydraopt.coding.records import PartsRecord
from hydraopt.coding.side import Side, quantise_side, quantise_started
from hydraopt.coding.spread import spread_of
from hydraopt.linalg.basis import Bases, Basis
from hydraopt.linalg.shapes import Array, Factors
from hydraopt.linalg.start import KnownStart

__all__ = ["CodedModule", "Recoded", "recode"]


@dataclass(frozen=True)
class CodedModule:
    """Record of a task in a module, and what it is written over.

    left, right: shared bases of the module. start: of the task. Each is None if there is none.
    """

    record: PartsRecord
    left: Basis | None
    right: Basis | None
    start: KnownStart | None = None

    @property
    def bases(self) -> Bases:
        return self.left, self.right


@dataclass(frozen=True)
class Recoded:
    """Record made from other factors.

    factors: what a reader will see, B (m, k) and A (k, n), each column of B and row of A as long
    as the one that it was made of, as far as rounding keeps it: so that both sides can be compared
    with what they stand for, part by part. Their product is the record's.
    """

    record: PartsRecord
    factors: Factors


def _scales(x: Array, side: Side, basis: Basis | None) -> Array:
    """Return the factor of each column of ``x`` (N, k) that brings it to the side's rate.

    Of a predicted side neither the whole nor what the basis misses may be livelier than it was: a
    column that has moved away from the basis is written more roughly, not with more bits.
    """
    if side.way is Way.STARTED:
        started: Array = np.linalg.norm(side.values, axis=0) / _lengths(x)
        return np.where(started > 0, started, 1.0)
    if side.way is not Way.PREDICTED or basis is None:
        block = side.own if side.coordinates is None else side.coordinates
        assert block is not None
        lengths: Array = np.sqrt(block.levels.shape[1]) * spread_of(block.spreads)
        return lengths / _lengths(x)
    assert side.own is not None
    missed = x - basis.vectors @ basis.coordinates(x)
    most = np.linalg.norm(side.values, axis=0) / _lengths(x)
    own = np.sqrt(len(x)) * spread_of(side.own.spreads)
    least = np.maximum(np.linalg.norm(missed, axis=0), 1e-12 * _lengths(x))
    scales: Array = np.minimum(most, own / least)
    return np.where(scales > 0, scales, 1.0)


def _lengths(x: Array) -> Array:
    lengths = np.linalg.norm(x, axis=0)
    whole: Array = np.where(lengths > 0, lengths, 1.0)
    return whole


def _started(x: Array, like: Side, weights: Array) -> Side:
    """Quantise ``x`` (N, k) over the initial A of a side, with own directions at its rate."""
    assert like.drawn is not None
    lengths = np.zeros(0)
    if like.residual is not None:
        lengths = np.sqrt(len(x)) * spread_of(like.residual.basis.block.spreads)
    return quantise_started(x, like.drawn, weights, lengths)


def _unbiased(x: Array, rounded: Array) -> Array:
    """Return factors (k,) with which rounded columns have the effect of ``x`` (N, k) along it.

    They are 1 for columns that rounding turned to nothing.
    """
    along = np.sum(x * rounded, axis=0)
    some = along > 0
    factors: Array = np.where(some, np.sum(x * x, axis=0) / np.where(some, along, 1.0), 1.0)
    return factors


def recode(factors: Factors, coded: CodedModule) -> Recoded:
    """Encode other factors in place of ``coded``, in as many parts and at the same rate.

    The factors are B (m, k) with the scale inside and A (k, n).

    Ways and spread classes are those of the old record; of a shared side only what lies in its
    basis is kept, and of a started one as many own directions as there were. The coefficients undo
    what rounding takes from each part's effect.
    Deterministic; O(k (m + n)), and the bases' part.
    """
    record, left, right = coded.record, coded.left, coded.right
    a = factors.A.T
    into = _scales(a, record.right, right)
    if record.right.drawn is None:
        rights = quantise_side(a * into, record.right.way, right)
    else:
        rights = _started(a * into, record.right, _lengths(factors.B) / into)
    back = _unbiased(a * into, rights.values) / into
    ideal = factors.B * back
    # On the grid of coefficients, which so cost no accuracy.
    grid = exponents(1 / _scales(ideal, record.left, left))
    lefts = quantise_side(ideal / power(grid), record.left.way, left)
    coefficients = exponents(power(grid) * _unbiased(ideal / power(grid), lefts.values))
    made = PartsRecord(lefts, rights, coefficients)
    b, a = lefts.values * power(coefficients) / back, (rights.values * back).T
    return Recoded(made, Factors(b, a))
