"""Coded parts trained to keep the original's own answers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hydraopt.basemodel.encoding import Encoded
from hydraopt.bundle.harm import Harm
from hydraopt.errors import AlignmentError, NumericalError, UsageError
from hydraopt.harm import refit as module
from hydraopt.harm import training, training_data
from hydraopt.harm.drift import Drift, drift_of, reference_of
from hydraopt.harm.refit import refit
from hydraopt.harm.training_data import TrainingData, teacher_of
from hydraopt.merging.look import DEFAULT_HARM, HarmSettings
from tests.basemodel.cases import PATHS, texts_of
from tests.harm.cases import SHORT, coded_of, same
from tests.marks import FORM_CASES, slow
from tests.raising import raises


@pytest.fixture(autouse=True, params=[False], ids=[""])
def halves(request, monkeypatch) -> None:
    """Whether the processor has products of bfloat16: nothing here depends on the machine."""
    monkeypatch.setattr(training_data, "has_bfloat16", lambda: request.param)


BRIEF = HarmSettings(steps=12, judge_after=(6, 12), learning_rate=0.02)
"""For what does not depend on how much is gained."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory):
    return coded_of(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def judged(monkeypatch):
    """Makes judges say this KL a token, first of what was coded and then at each stop.

    Returns the factors that they were asked about.
    """
    drift = training.HeldOutAnswers.drift

    def say(*kl: float):
        said, seen = iter(kl), []

        def told(self, factors):
            seen.append(factors)
            # Of what was coded, so that no more answers change.
            first = drift(self, seen[0])
            return dataclasses.replace(first, kl=np.full_like(first.kl, next(said)))

        monkeypatch.setattr(training.HeldOutAnswers, "drift", told)
        return seen

    return say


def refitted(model, texts, original, coded, more=(), **rest):
    """Records of a refit by one teacher, whose answers these are."""
    return refit(model, teacher_of(original, texts, more), coded, **rest)


def harm_of(model, texts, original, records) -> Harm:
    factors = {path: (x.factors.B, x.factors.A) for path, x in records.items()}
    return drift_of(model, reference_of(model, texts, original), factors).summary().harm


def held_out_harm(model, texts, original, coded, records, more=()) -> tuple[Harm, Harm]:
    """Harm on the answers that judge a refit, of what was coded and with these records."""
    old = {path: x.record for path, x in coded.items()}
    given = model, teacher_of(original, texts, more).held_out, original
    return harm_of(*given, old), harm_of(*given, {**old, **records})


def test_less_harm_on_what_was_held_out(trained, parts) -> None:
    model, tokenizer = trained
    original, coded = parts
    texts = texts_of(tokenizer, 24)
    made = refitted(model, texts, original, coded, settings=SHORT)
    before, after = held_out_harm(model, texts, original, coded, made)
    assert after.likely < before.likely
    assert after.kl < 0.9 * before.kl
    judges = texts[DEFAULT_HARM.held_out - 1 :: DEFAULT_HARM.held_out]
    teacher = teacher_of(original, texts)
    assert (teacher.judging, teacher.late) == (judges, [])
    assert made.keys() == coded.keys()


def test_logits_that_are_not_finite_are_refused(trained, parts, monkeypatch):
    """Where errors are limited nothing was measured before."""
    model, tokenizer = trained
    original, coded = parts
    monkeypatch.setattr(Drift, "is_finite", False)
    with raises(NumericalError, expected="finite numbers"):
        refitted(model, texts_of(tokenizer, 24), original, coded, settings=BRIEF)


@pytest.mark.slow
def test_more_answers_are_learned_from_and_a_quarter_of_all_judges(
    trained, parts, monkeypatch
) -> None:
    model, tokenizer = trained
    original, coded = parts
    texts = texts_of(tokenizer, 40)
    few, empty = texts[:8], Encoded(texts[0].prompt, ())
    more = [*texts[8:], empty]
    helped = refitted(model, few, original, coded, settings=BRIEF, more=more)
    # All of the first, and two of the others.
    judging = [*few, texts[8 + 8], texts[8 + 24]]
    teacher = teacher_of(original, few, more)
    assert (teacher.judging, teacher.late) == (judging[:8], judging[8:])
    before, after = held_out_harm(model, few, original, coded, helped, more)
    assert before.answers == after.answers == 10
    assert after.kl < before.kl
    learned, of = [], TrainingData.of
    monkeypatch.setattr(
        TrainingData,
        "of",
        lambda model, teacher, texts: learned.append(teacher.answers) or of(model, teacher, texts),
    )
    refitted(model, few, original, coded, settings=BRIEF, more=[*texts[8:], empty])
    assert learned == [[x for x in texts[8:] if x not in judging[8:]]]
    refitted(model, few, original, coded, settings=BRIEF, more=[*texts[8:], few[0]])
    assert few[0] not in learned[1]  # it judges, and is there twice
    assert learned[1]
    with raises(UsageError, got=2):
        refitted(model, texts[:1] * 8, original, coded)


@pytest.mark.slow
def test_others_do_not_outvote_the_first(trained, parts, monkeypatch) -> None:
    model, tokenizer = trained
    original, coded = parts
    texts = texts_of(tokenizer, 40)
    asked = {"settings": BRIEF, "more": texts[8:]}
    assert refitted(model, texts[:8], original, coded, **asked)
    drift, only = training.HeldOutAnswers.drift, Drift.only
    changes = []

    def counted(*given):
        changes.append(drift(*given))
        return changes[-1]

    def worse(self, some):
        told = only(self, some)
        return told if self is changes[0] else dataclasses.replace(told, kl=told.kl + 1)

    def by_chance(self, some):
        """More in the mean, by less than answers differ."""
        told = only(self, some)
        odd = np.where(told.row % 2, 10.0, -9.5)
        return told if self is changes[0] else dataclasses.replace(told, kl=told.kl + odd)

    monkeypatch.setattr(training.HeldOutAnswers, "drift", counted)
    monkeypatch.setattr(Drift, "only", worse)
    assert refitted(model, texts[:8], original, coded, **asked) == {}
    changes.clear()
    monkeypatch.setattr(Drift, "only", by_chance)
    assert refitted(model, texts[:8], original, coded, **asked)


@pytest.mark.parametrize("halves", [False, slow(True)], indirect=True)
@pytest.mark.parametrize("form", FORM_CASES)
def test_never_worse_and_in_the_same_ways_over_the_same_bases(
    trained, judged, tmp_path, form
) -> None:
    model, tokenizer = trained
    original, coded = coded_of(tmp_path, "60%", form)
    texts = texts_of(tokenizer, 16)
    made = refitted(
        model,
        texts,
        original,
        coded,
        settings=HarmSettings(steps=2, judge_after=(1, 2), learning_rate=0.02),
    )
    before, after = held_out_harm(model, texts, original, coded, made)
    assert after.kl <= before.kl
    judged(1, 0.5)
    how = HarmSettings(steps=2, judge_after=(2,), learning_rate=0.02)
    tried = refitted(model, texts, original, coded, settings=how)
    assert tried.keys() == coded.keys()
    for path, record in tried.items():
        assert record.mode == coded[path].record.mode
        assert record.count == coded[path].record.count
        pairs = zip(
            (record.factors.B, record.factors.A),
            (coded[path].record.factors.B, coded[path].record.factors.A),
            strict=True,
        )
        assert not all(np.array_equal(x, y) for x, y in pairs)


def test_nothing_is_kept_that_does_not_help(trained, parts) -> None:
    model, tokenizer = trained
    original, coded = parts
    texts = texts_of(tokenizer, 16)
    wild = HarmSettings(steps=4, judge_after=(2, 4), learning_rate=5.0, coded_learning_rate=5.0)
    assert refitted(model, texts, original, coded, settings=wild) == {}


@pytest.mark.slow
@pytest.mark.parametrize("helps", [False, True])
def test_what_keeps_nothing_starts_again_from_what_is_coded(
    trained, parts, monkeypatch, helps: bool
) -> None:
    model, tokenizer = trained
    original, coded = parts
    texts = texts_of(tokenizer, 24)
    # From parts that are far from the original's there is nothing to gain in so few steps.
    far = {path: (b[:, ::-1] * 30, a) for path, (b, a) in original.items()}
    strongest = module.strongest
    monkeypatch.setattr(
        module, "strongest", lambda x, own: strongest(x, own if helps else far[PATHS[0]])
    )
    begun, steps = [], module.training_steps
    monkeypatch.setattr(
        module,
        "training_steps",
        lambda how, *rest: begun.append(how.learning_rate) or steps(how, *rest),
    )
    how = HarmSettings(
        steps=48, judge_after=(8, 16, 24, 48), learning_rate=0.003, coded_learning_rate=0.03
    )
    said: list[tuple[int, int]] = []
    made = refitted(
        model, texts, original, coded, settings=how, report=lambda *steps: said.append(steps)
    )
    assert begun == ([0.003] if helps else [0.003, 0.03])
    assert said == [(i + 1, 48 * (i // 48 + 1)) for i in range(48 * len(begun))]
    before, after = held_out_harm(model, texts, original, coded, made)
    assert after.kl < before.kl
    once = dataclasses.replace(how, coded_learning_rate=None)
    assert bool(refitted(model, texts, original, coded, settings=once)) == helps


def test_of_the_coded_parts_nothing_is_lost_before_the_first_step(trained, parts) -> None:
    _, coded = parts
    assert coded
    for x in coded.values():
        start, record = module.as_coded(x), x.record.factors
        np.testing.assert_allclose(start.B @ start.A, record.B @ record.A, atol=1e-7)
        lengths = np.linalg.norm(start.B, axis=0), np.linalg.norm(start.A, axis=1)
        np.testing.assert_allclose(*lengths, rtol=1e-5)


def test_the_best_stop_is_kept(trained, parts, judged) -> None:
    model, tokenizer = trained
    how = HarmSettings(steps=3, judge_after=(1, 2, 3), learning_rate=0.2)
    for kl in ((1, 1, 0.5, 0.7), (1, 0.5, 0.7, 1), (1, 0.8, 0.7, 0.5)):
        seen = judged(*kl)
        made = refitted(model, texts_of(tokenizer, 24), *parts, settings=how)
        assert [same(made, x) for x in seen] == [x == 0.5 for x in kl]


@pytest.mark.slow
def test_a_stop_without_finite_numbers_is_left_out(trained, parts, judged) -> None:
    model, tokenizer = trained
    seen = judged(1, -np.inf, 0.5)
    how = HarmSettings(steps=2, judge_after=(1, 2), learning_rate=0.2)
    made = refitted(model, texts_of(tokenizer, 24), *parts, settings=how)
    assert [same(made, x) for x in seen] == [False, False, True]


@pytest.mark.parametrize("more", [True, slow(False)])
def test_less_kl_counts_unless_surely_more_answers_change(
    trained, parts, monkeypatch, more: bool
) -> None:
    model, tokenizer = trained
    original, coded = parts
    texts = texts_of(tokenizer, 24)
    monkeypatch.setattr(training, "surely_changes_more", lambda before, after: more)
    made = refitted(model, texts, original, coded, settings=BRIEF)
    assert bool(made) == (not more)


def test_a_refit_can_be_repeated_and_the_model_stays(trained, parts, judged) -> None:
    model, tokenizer = trained
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    original, coded = parts
    texts = texts_of(tokenizer, 24)
    how = HarmSettings(steps=8, judge_after=(8,), learning_rate=0.02, stages=1)
    refitted(model, texts, original, coded, settings=how)
    made = []
    for _ in range(2):
        judged(1, 0.5)
        made.append(refitted(model, texts, original, coded, settings=how))
    assert made[0].keys() == coded.keys()
    assert same(*made)
    assert all(torch.equal(x, weights[name]) for name, x in model.state_dict().items())
    assert not any(x.requires_grad for x in model.parameters())


def test_stages_hold_early_layers_first(trained, parts, judged) -> None:
    holds = module._freezing(
        ["l.10.q", "l.2.q", "l.2.k", "l.0.q"], HarmSettings(steps=40, judge_after=(40,), stages=2)
    )
    assert holds == {20: ["l.0.q", "l.2.k"]}
    assert module._freezing(["l.0.q"], HarmSettings(stages=1)) == {}
    model, tokenizer = trained
    original, coded = parts
    how = HarmSettings(steps=24, judge_after=(12, 24), learning_rate=0.2, stages=2)
    seen = judged(1, 0.5, 0.25)
    assert refitted(model, texts_of(tokenizer, 18), original, coded, settings=how)
    _, middle, end = seen
    held = {p for p in coded if np.array_equal(middle[p].B, end[p].B)}
    assert held == {*sorted(coded)[: len(coded) // 2]}


def test_too_few_answers_and_other_modules_are_refused(trained, parts) -> None:
    model, tokenizer = trained
    original, coded = parts
    texts = texts_of(tokenizer, 16)
    for few in ([], texts[:3], [Encoded(x.prompt, ()) for x in texts]):
        with pytest.raises(UsageError):
            refitted(model, few, original, coded)
    with raises(AlignmentError, got="no such module", expected="(32, 32)"):
        refitted(model, texts, {"x.y": original[PATHS[0]]}, coded)


@pytest.mark.parametrize(
    ("steps", "judge_after"),
    [(60, (80, 120, 160)), (160, (80, 120)), (8, ()), (8, (8, 4)), (8, (0, 8))],
)
def test_numbers_of_steps_rise_to_the_last_step(steps: int, judge_after: tuple[int, ...]) -> None:
    with raises(UsageError, got=str(judge_after)):
        HarmSettings(steps=steps, judge_after=judge_after)
