"""Records of other factors in a draft that keeps its budget."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hydraopt import read_adapters
from hydraopt.coding.forms import FORMS
from hydraopt.compress.measure import measure_named
from hydraopt.compress.recode import recode
from hydraopt.errors import UsageError
from hydraopt.linalg.norms import relative_error
from hydraopt.linalg.shapes import Factors
from hydraopt.merging.align import align
from hydraopt.merging.budget import MeanError, Size
from hydraopt.merging.decoded import DecodedDraft
from hydraopt.merging.options import DEFAULT_MEASURE
from hydraopt.merging.outcome import Job
from hydraopt.merging.recipe import MergeRecipe
from hydraopt.merging.refit import refitted
from hydraopt.merging.solving import SearchOptions, solve
from tests.marks import FORM_CASES
from tests.raising import raises


class Solved:
    """Adapters, and the draft of a budget."""

    def __init__(self, folders: list[Path], budget, forms=tuple(FORMS)) -> None:
        self.adapters = {adapter.name: adapter for adapter in read_adapters(folders)}
        self.budget = budget
        self.pieces = align([*self.adapters.values()], None, lossless=False)
        recipe = MergeRecipe(DEFAULT_MEASURE, budget.name, budget.limit, tuple(forms))
        self.job = Job.of(self.pieces, recipe)
        self.draft = solve(
            self.job, budget, SearchOptions(measure_named(DEFAULT_MEASURE), forms)
        ).draft

    def value(self, draft, _tasks: int = 0) -> float:
        return self.job.value(self.budget, draft)

    def refitted(self, ask, budget=None):
        """budget: another than that of the draft."""
        self.budget = budget or self.budget
        known = self.draft, self.pieces, self.adapters
        return refitted(*known, ask, self.budget, self.value)

    def factors(self, draft, name: str) -> dict[str, Factors]:
        task = next(x for x in self.pieces.tasks if x.name == name)
        return DecodedDraft(draft, self.pieces).factors(task)

    def original(self, name: str, path: str) -> Factors:
        return Factors.of(*self.adapters[name].modules[path].factors())


def noisy(names: str, share: float):
    """Other records of these tasks: of the coded parts with noise."""

    def ask(name, modules):
        if name not in names:
            return {}
        rng = np.random.default_rng(0)
        made = {}
        for path, x in modules().items():
            b, a = x.record.factors.B, x.record.factors.A
            near = [y * (1 + share * rng.standard_normal(y.shape)) for y in (b, a)]
            made[path] = recode(Factors(*near), x).record
        return made

    return ask


@pytest.mark.parametrize("form", FORM_CASES)
def test_others_stay_and_errors_are_those_from_the_originals(three, form) -> None:
    solved = Solved(three, Size(14000), (form,))
    made = solved.refitted(noisy("b", 0.1), Size(15000))
    assert (made.tasks, made.back) == (1, 0)
    assert solved.value(made.draft) < 14300
    assert made.draft.shared == solved.draft.shared
    same = [x == y for x, y in zip(made.draft.streams, solved.draft.streams, strict=True)]
    assert same == [True, False, True]
    assert np.array_equal(made.draft.errors[[0, 2]], solved.draft.errors[[0, 2]])
    for index, (path, got) in enumerate(solved.factors(made.draft, "b").items()):
        stated = np.sqrt(made.draft.errors[1, index] / made.draft.energies[1, index])
        assert stated == pytest.approx(relative_error(solved.original("b", path), got), rel=1e-6)


def test_no_answer_changes_nothing(three) -> None:
    solved = Solved(three, Size(14000))
    made = solved.refitted(lambda name, modules: {})
    assert (made.tasks, made.back) == (0, 0)
    assert [*made.draft.streams] == [*solved.draft.streams]


def test_modules_that_are_left_out_stay(three) -> None:
    solved = Solved(three, Size(14000))
    ask = noisy("a", 0.1)
    made = solved.refitted(
        lambda name, modules: {p: x for p, x in ask(name, modules).items() if p == "h.0.q"},
        Size(15000),
    )
    before, after = (solved.factors(x, "a") for x in (solved.draft, made.draft))
    for path, factors in before.items():
        assert np.array_equal(after[path].B, factors.B) == (path != "h.0.q")


def test_tasks_go_back_where_an_error_would_not_be_kept(three) -> None:
    solved = Solved(three, MeanError(0.2))
    made = solved.refitted(noisy("abc", 2.0))
    assert (made.tasks, made.back) == (0, 3)
    assert [*made.draft.streams] == [*solved.draft.streams]


def test_a_size_is_kept_and_what_grew_most_goes_back(three) -> None:
    solved = Solved(three, Size(14000))
    rng = np.random.default_rng(0)

    def ask(name, modules):
        # Wild coefficients, which take more bytes than smooth ones.
        wild = 4000 if name == "b" else 2
        return {
            path: dataclasses.replace(
                x.record,
                exponents=x.record.exponents + rng.integers(-wild, wild, x.record.count),
            )
            for path, x in modules().items()
        }

    # Hardly a byte to spare.
    tight = Size(int(solved.value(solved.draft)) + 30)
    made = solved.refitted(ask, tight)
    assert solved.value(made.draft) <= tight.limit
    assert (made.tasks, made.back) == (2, 1)
    same = [x == y for x, y in zip(made.draft.streams, solved.draft.streams, strict=True)]
    assert same == [False, True, False]


def test_records_that_do_not_fit_are_refused(three) -> None:
    solved = Solved(three, Size(14000))

    def shorter(name, modules):
        path, x = next(iter(modules().items()))
        some = np.arange(x.record.count) < x.record.count - 1
        left, right = x.record.left.keep(some), x.record.right.keep(some)
        return {
            path: dataclasses.replace(
                x.record, left=left, right=right, exponents=x.record.exponents[some]
            )
        }

    with raises(UsageError, adapter="a", module="h.0.q"):
        solved.refitted(shorter)

    def elsewhere(name, modules):
        return {"h.7.q": next(iter(modules().values())).record}

    with raises(UsageError, adapter="a", module="h.7.q"):
        solved.refitted(elsewhere)
