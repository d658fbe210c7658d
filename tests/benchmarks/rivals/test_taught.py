"""Rivals that get prompts: factors moved so that what rounding leaves keeps more answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.rivals.base import pack
from benchmarks.rivals.coded_svd import coded_svd, rows, taught_rows
from benchmarks.rivals.registry import SetShape
from benchmarks.rivals.taught import taught
from hydraopt.model import refit as training_data
from hydraopt.model.drift import drift_of, held_out, reference_of
from tests.basemodel.cases import factors_of, texts_of
from tests.harm.cases import SHORT


@pytest.fixture
def school(trained, monkeypatch):
    """(originals of one task, its answers, what teaches, harm of factors on held-out answers)."""
    monkeypatch.setattr(training_data, "has_bfloat16", lambda: False)  # on no machine
    model, tokenizer = trained
    original = {
        path: tuple(np.asarray(x, np.float32) for x in pair)
        for path, pair in factors_of(0, 0.02).items()
    }
    answers = texts_of(tokenizer, 24)
    judges = reference_of(model, [answers[i] for i in held_out(answers)[1]], original)

    def teach(_task, start, rounded):
        return taught(model, answers, original, start, rounded, SHORT)

    return original, teach, lambda factors: drift_of(model, judges, factors).summary().harm


def test_less_harm_in_as_many_bytes(school, tmp_path: Path) -> None:
    original, teach, harm = school
    plain, row = coded_svd(0.7), coded_svd(0.7, teach=teach)
    before = pack(plain, {"t": original}, tmp_path / "a")
    after = pack(row, {"t": original}, tmp_path / "b")
    assert after.bytes < 1.05 * before.bytes  # tables of frequencies differ
    old, new = harm(before.factors["t"]), harm(after.factors["t"])
    assert new.kl < 0.9 * old.kl
    assert new.likely <= old.likely


def test_what_no_step_makes_better_stays(school) -> None:
    original, teach, _ = school
    assert teach("t", original, lambda modules: modules) is original  # nothing is lost


@pytest.mark.slow
def test_further_answers_teach_as_well(school, trained, tmp_path: Path) -> None:
    model, tokenizer = trained
    original, _, harm = school
    few, others = texts_of(tokenizer, 24)[:8], texts_of(tokenizer, 24)[8:]
    kl = []
    for more in ([], others):

        def teach(_task, start, rounded, more=more):
            return taught(model, few, original, start, rounded, SHORT, more)

        row = coded_svd(0.7, teach=teach)
        kl.append(harm(pack(row, {"t": original}, tmp_path / f"{len(more)}").factors["t"]).kl)
    assert kl[1] < kl[0]


def test_rows_have_labels_of_their_own(school) -> None:
    found = [*taught_rows(school[1]), *rows(SetShape(1, 2))]
    assert len({row.label for row in found}) == len(found)
    assert sum(row.method.endswith("prompts") for row in found) == len(taught_rows(school[1]))
