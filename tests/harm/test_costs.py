"""Costs of errors in parts predict what errors do to the answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hydraopt.coding.forms import Way
from hydraopt.coding.records import PartsRecord
from hydraopt.coding.side import quantise_side
from hydraopt.compress.recode import CodedModule
from hydraopt.harm import costs as module
from hydraopt.harm.costs import part_costs
from hydraopt.harm.drift import drift_of, reference_of
from hydraopt.harm.lesson import Lesson, Teacher
from hydraopt.harm.sides import Sides, strongest
from hydraopt.linalg.shapes import Factors
from tests.basemodel.cases import factors_of, texts_of


@pytest.fixture
def measured(trained):
    """How far answers drift with another module, the original's parts, and their costs."""
    model, tokenizer = trained
    original, texts = factors_of(0, 0.05), texts_of(tokenizer, 48)
    sides, parts = {}, {}
    for path, pair in original.items():
        b, a = (np.asarray(x, np.float64) for x in pair)
        # What is coded has one part; the costs are of all parts of the original.
        left, right = (quantise_side(x[:, :1], Way.EXPLICIT, None) for x in (b * 1e4, a.T * 1e4))
        coded = CodedModule(PartsRecord(left, right, np.zeros(1, np.int64)), None, None)
        parts[path] = strongest(coded, pair, more=True)
        sides[path] = Sides(coded, parts[path])
    lesson = Lesson.of(model, [Teacher(original, texts)], 1)
    reference = reference_of(model, texts, original, lesson.among.tokens)

    def kl_with(path: str, changed: Factors) -> float:
        factors = {**original, path: (changed.B.astype(np.float32), changed.A.astype(np.float32))}
        return drift_of(model, reference, factors).summary().harm.kl

    return kl_with, parts, part_costs(model, lesson, {}, sides, len(texts))


@pytest.mark.parametrize("side", ["left", "right"])
def test_noise_costs_what_is_foretold(measured, side: str) -> None:
    kl_with, parts, costs = measured
    rng, ratios = np.random.default_rng(0), []
    for path, whole in parts.items():
        share, found = 0.1, []
        for _ in range(6):
            b, a = whole.B.copy(), whole.A.copy()
            x = b[:, 0] if side == "left" else a[0]
            x += share * rng.standard_normal(x.shape) * np.sqrt(np.mean(x**2))
            found.append(kl_with(path, Factors(b, a)))
        foretold = share**2 * getattr(costs[path], side)[0]
        ratios.append(np.log(np.mean(found) / foretold))
    assert np.exp(np.mean(ratios)) == pytest.approx(1, rel=0.4)
    assert max(map(abs, ratios)) < np.log(3)


def test_a_part_that_shrinks_costs_what_is_foretold(measured) -> None:
    kl_with, parts, costs = measured
    ratios = []
    for path, whole in parts.items():
        b = whole.B.copy()
        b[:, 0] *= 0.9
        found = kl_with(path, Factors(b, whole.A))
        ratios.append(np.log(found * module._MISSING / (0.01 * costs[path].whole[0])))
    assert np.exp(np.mean(ratios)) == pytest.approx(1, rel=0.4)


def test_what_no_text_reaches_costs_nothing() -> None:
    squares = module._Squares()
    left, right = (torch.ones(3, 2, requires_grad=True) for _ in range(2))
    squares.take(left, right)
    assert squares.left == squares.whole == 0.0
