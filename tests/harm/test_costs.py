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
from tests.basemodel.cases import PATHS, factors_of, texts_of


def begun(b, a) -> tuple[CodedModule, Factors]:
    """A module of one coded part, and all parts of the original."""
    pair = np.asarray(b, np.float64), np.asarray(a, np.float64)
    sides = (pair[0], pair[1].T)
    left, right = (quantise_side(1e4 * x[:, :1], Way.EXPLICIT, None) for x in sides)
    coded = CodedModule(PartsRecord(left, right, np.zeros(1, np.int64)), None, None)
    return coded, strongest(coded, pair, every=True)


@pytest.fixture
def measured(trained):
    """How far answers drift with another module, the original's parts, and their costs."""
    model, tokenizer = trained
    original, texts = factors_of(0, 0.05), texts_of(tokenizer, 48)
    sides, parts = {}, {}
    for path, pair in original.items():
        coded, parts[path] = begun(*pair)
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
        ratios.append(np.log(found / (0.01 * costs[path].whole[0])))
    assert np.exp(np.mean(ratios)) == pytest.approx(1, rel=0.4)


def test_parts_that_are_not_the_original_s_cost_no_more(trained) -> None:
    """Tokens are drawn from what is differentiated, so a distance to the original adds nothing."""
    model, tokenizer = trained
    original, texts = factors_of(0, 0.05), texts_of(tokenizer, 48)
    lesson = Lesson.of(model, [Teacher(original, texts)], 8)
    whole = []
    for scale in (1.0, 0.7):
        sides = {p: Sides(*begun(b * scale, a)) for p, (b, a) in original.items()}
        costs = part_costs(model, lesson, {}, sides, len(texts))
        whole.append(sum(x.whole.sum() for x in costs.values()))
    assert whole[1] < 2 * whole[0]


def test_modules_without_gradients_or_with_infinite_ones_have_no_costs(trained) -> None:
    model, tokenizer = trained
    original, texts = factors_of(0, 0.05), texts_of(tokenizer, 8)
    lesson = Lesson.of(model, [Teacher(original, texts)], 4)
    sides = {p: Sides(*begun(*pair)) for p, pair in original.items()}
    known = part_costs(model, lesson, {}, sides, 8)
    assert known.keys() == original.keys()
    squares = module._Squares()
    assert squares.costs(sides[PATHS[0]], 8) is None
    left, right = sides[PATHS[0]].both
    left.grad, right.grad = torch.full_like(left, torch.inf), torch.ones_like(right)
    squares.take(left, right)
    assert squares.costs(sides[PATHS[0]], 8) is None
