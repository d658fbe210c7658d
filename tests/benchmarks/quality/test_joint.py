"""One adapter for several tasks."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality import joint
from benchmarks.quality.joint import mean_of, trained_together
from hydraopt.basemodel.model import TaskFactors
from hydraopt.errors import NumericalError
from hydraopt.harm import lesson
from hydraopt.harm.drift import Drift, drift_of, reference_of
from hydraopt.harm.lesson import Teacher, teacher_of
from hydraopt.linalg.shapes import Factors
from tests.basemodel.cases import PATHS, factors_of, texts_of
from tests.raising import raises


@pytest.fixture(autouse=True)
def _floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lesson, "has_bfloat16", lambda: False)


def teachers_of(tokenizer, seeds=(0, 1)) -> list[Teacher]:
    """Adapters that are one adapter and a little of their own, each with answers."""
    common, made = factors_of(9, 0.05), []
    for seed in seeds:
        own = factors_of(seed, 0.01)
        original: TaskFactors = {path: (b + own[path][0], a) for path, (b, a) in common.items()}
        made.append(teacher_of(original, texts_of(tokenizer, 16 + seed)))
    return made


def kl(model, teacher: Teacher, factors: dict[str, Factors]) -> float:
    reference = reference_of(model, teacher.answers, teacher.original)
    given = {path: (x.B, x.A) for path, x in factors.items()}
    return drift_of(model, reference, given).summary().harm.kl


def test_it_begins_at_the_mean() -> None:
    originals = [factors_of(seed) for seed in range(3)]
    del originals[2][PATHS[0]]
    whole = mean_of(originals, 99)
    assert whole.keys() == {*PATHS}
    for path, x in whole.items():
        mean = sum(f[path][0] @ f[path][1] for f in originals if path in f) / 3
        np.testing.assert_allclose(x.B @ x.A, mean, atol=1e-5)
    part = mean_of(originals, 2)
    assert {x.A.shape[0] for x in part.values()} == {2}
    lengths = (
        np.linalg.norm(x, axis=axis) for x, axis in ((part[PATHS[0]].B, 0), (part[PATHS[0]].A, 1))
    )
    np.testing.assert_allclose(*lengths, rtol=1e-5)


def test_it_learns_from_all_and_steps_are_told(trained) -> None:
    model, tokenizer = trained
    teachers = teachers_of(tokenizer)
    told: list[tuple[int, int]] = []
    made = trained_together(model, teachers, 1, lambda *x: told.append(x), steps=60)
    assert told == [(i + 1, 60) for i in range(60)]
    start = mean_of([x.original for x in teachers], 1)
    before, after = (sum(kl(model, x, factors) for x in teachers) for factors in (start, made))
    assert after < 0.8 * before
    assert {x.A.shape for x in made.values()} == {(1, 32)}
    assert not any(x.requires_grad for x in model.parameters())


def test_where_the_held_out_answers_drift_least_counts(trained, monkeypatch) -> None:
    model, tokenizer = trained
    teachers = teachers_of(tokenizer)
    seen: list[dict[str, Factors]] = []
    drift = joint.Judges.drift

    def worse_each_time(self, factors) -> Drift:
        seen.append(factors)
        found = drift(self, factors)
        return Drift(found.row, found.kl + len(seen), found.margin, found.moved, found.answers)

    monkeypatch.setattr(joint.Judges, "drift", worse_each_time)
    made = trained_together(model, teachers, 3, steps=8)
    assert len(seen) == 4
    assert made is seen[0]


def test_logits_that_are_not_finite_are_refused(trained, monkeypatch) -> None:
    model, tokenizer = trained
    monkeypatch.setattr(Drift, "is_finite", False)
    with raises(NumericalError, expected="finite numbers"):
        trained_together(model, teachers_of(tokenizer), 3, steps=4)
