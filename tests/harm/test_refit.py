"""Coded parts trained to keep the original's own answers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hydraopt.bundle import Harm
from hydraopt.codec import Factors
from hydraopt.errors import AlignmentError, NumericalError, UsageError
from hydraopt.merging import DEFAULT_HARM, HarmSettings
from hydraopt.model import (
    Encoded,
    attached,
    hidden_states,
    logits_of,
    place,
    refit as module,
    refit as training_data,
    refit as training_data_module,
)
from hydraopt.model.drift import Drift, drift_of, reference_of
from hydraopt.model.refit import Teacher, TrainingData, model_to_train, refit, teacher_of
from hydraopt.model.texts import collate
from tests.basemodel.cases import HEAD, PATHS, factors_of, texts_of, with_head
from tests.harm.cases import SHORT, coded_of, same
from tests.marks import FORM_CASES, slow
from tests.raising import raises
from tests.small_model import tiny_llama


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
    drift_of = module.drift_of

    def say(*kl: float):
        said, seen, first = iter(kl), [], []

        def told(model, reference, factors):
            seen.append({path: Factors(*x) for path, x in factors.items()})
            # Of what was coded, so that no more answers change.
            first.append(first[0] if first else drift_of(model, reference, factors))
            return dataclasses.replace(first[0], kl=np.full_like(first[0].kl, next(said)))

        monkeypatch.setattr(module, "drift_of", told)
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


def test_what_judges_is_not_learned(trained, parts) -> None:
    texts = texts_of(trained[1], 40)
    few, empty = texts[:8], Encoded(texts[0].prompt, ())
    teacher = teacher_of(parts[0], few, [*texts[8:], empty, few[0]])
    # All of the first judge, and two of the others.
    assert (teacher.judging, teacher.late) == (few, [texts[8 + 8], texts[8 + 24]])
    assert teacher.answers == [x for x in texts[8:] if x not in teacher.late]


def test_others_do_not_outvote_the_first() -> None:
    """More harm to the first ones counts, unless it is less than by chance."""
    same = np.ones(16), np.zeros(16), 16
    before = Drift(np.arange(16), np.ones(16), *same)
    for first, worse in ((np.full(8, 1.0), True), (np.tile([10.0, -9.5], 4), False)):
        kl = np.concatenate([1 + first, np.zeros(8)])
        assert module.is_worse(before, Drift(np.arange(16), kl, *same), 8) == worse


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


@pytest.mark.parametrize("helps", [False, True])
def test_what_keeps_nothing_starts_again_from_what_is_coded(trained, parts, judged, helps) -> None:
    seen, steps = judged(1, 0.5 if helps else 2, 0.5), list[tuple[int, int]]()
    how = HarmSettings(steps=2, judge_after=(2,), learning_rate=0.02)
    texts = texts_of(trained[1], 24)
    given = {"settings": how, "report": lambda *x: steps.append(x)}
    made = refitted(trained[0], texts, *parts, **given)
    assert steps == [(1, 2), (2, 2), *([] if helps else [(3, 4), (4, 4)])]
    assert same(made, seen[-1])
    judged(1, 2)
    once = dataclasses.replace(how, coded_learning_rate=None)
    assert refitted(trained[0], texts, *parts, settings=once) == {}


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
    monkeypatch.setattr(module, "surely_more", lambda before, after: more)
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


def test_other_modules_are_refused(trained, parts) -> None:
    original, coded = parts
    with raises(AlignmentError, got="no such module", expected="(32, 32)"):
        refitted(trained[0], texts_of(trained[1], 16), {"x.y": original[PATHS[0]]}, coded)


@pytest.mark.parametrize(
    ("steps", "judge_after"),
    [(60, (80, 120, 160)), (160, (80, 120)), (8, ()), (8, (8, 4)), (8, (0, 8))],
)
def test_numbers_of_steps_rise_to_the_last_step(steps: int, judge_after: tuple[int, ...]) -> None:
    with raises(UsageError, got=str(judge_after)):
        HarmSettings(steps=steps, judge_after=judge_after)


# --- what is learned from: the gradient is that of the kl an answ --------------------------------


@pytest.mark.parametrize("head", [False, True])
def test_the_gradient_is_that_of_the_definition(trained, head: bool) -> None:
    """With factors on the output layer as well, which get none."""
    model, tokenizer = trained
    texts = texts_of(tokenizer, 6)
    make = with_head if head else lambda x: x
    original, other = (make(factors_of(seed, 0.05)) for seed in (0, 1))
    mine, wanted = (
        {p: (b.clone().requires_grad_(p != HEAD), a) for p, (b, a) in place(model, other).items()}
        for _ in range(2)
    )
    data = TrainingData.of(model, Teacher(original, texts), len(texts))
    data.add_gradients(model, mine, 0)
    batch = collate(texts)
    with torch.no_grad(), attached(model, place(model, original)):
        aim = logits_of(model, hidden_states(model, batch), {})
    with attached(model, wanted):
        got = logits_of(model, hidden_states(model, batch), {})
    # Of the next tokens, those that matter alone are compared.
    assert 1 < len(data.next_tokens.tokens) < len(model.get_output_embeddings().weight)
    target, said = (x[:, data.next_tokens.tokens].log_softmax(-1) for x in (aim, got))
    kl = F.kl_div(said, target, log_target=True, reduction="sum") / len(texts)
    kl.backward()
    for path in factors_of(0):
        assert mine[path][0].grad.abs().max() > 0
        torch.testing.assert_close(mine[path][0].grad, wanted[path][0].grad, rtol=1e-3, atol=1e-4)


def test_long_texts_share_no_batch(trained, monkeypatch) -> None:
    """A gradient keeps what all modules see of a batch, so its tokens are bounded."""
    model, tokenizer = trained
    texts = texts_of(tokenizer, 6)
    longest = max(map(len, texts))
    original = factors_of(0, 0.05)
    assert len(TrainingData.of(model, Teacher(original, texts), len(texts)).batches) == 1
    monkeypatch.setattr(training_data_module, "MOST_BATCH_TOKENS", 2 * longest)
    pages = TrainingData.of(model, Teacher(original, texts), len(texts)).batches
    assert all(page.batch.ids.numel() <= 2 * longest for page in pages)
    assert sum(int(page.batch.row.max()) + 1 for page in pages) == len(texts)
    monkeypatch.setattr(training_data_module, "MOST_BATCH_TOKENS", 1)
    assert len(TrainingData.of(model, Teacher(original, texts), len(texts)).batches) == len(texts)


@pytest.mark.parametrize("halves", [True, False])
def test_who_learns(trained, monkeypatch, halves) -> None:
    model, tokenizer = trained
    monkeypatch.setattr(training_data_module, "has_bfloat16", lambda: halves)
    learner = model_to_train(model)
    assert (learner is model) == (not halves)
    kept = {x.dtype for x in model.parameters()}
    assert kept == {torch.float32}
    assert {x.dtype for x in learner.parameters()} == ({torch.bfloat16} if halves else kept)
    # It thinks nearly the same, and its gradient points the same way.
    texts = texts_of(tokenizer, 6)
    slopes = []
    for who in (model, learner):
        original, other = factors_of(0, 0.05), place(who, factors_of(1, 0.05))
        leaves = {
            p: (b.float().requires_grad_(), a.float().requires_grad_())
            for p, (b, a) in other.items()
        }
        TrainingData.of(who, Teacher(original, texts), len(texts)).add_gradients(who, leaves, 0)
        slopes.append(torch.cat([x.grad.flatten() for pair in leaves.values() for x in pair]))
    assert F.cosine_similarity(*slopes, dim=0) > 0.99


def test_no_copy_is_made_that_has_no_room(trained, monkeypatch) -> None:
    monkeypatch.setattr(training_data_module, "has_bfloat16", lambda: True)
    size = sum(2 * x.numel() for x in trained[0].parameters())
    monkeypatch.setattr(training_data_module, "most_memory", lambda: 4 * size)
    assert model_to_train(trained[0]) is not trained[0]
    monkeypatch.setattr(training_data_module, "most_memory", lambda: 4 * size - 1)
    assert model_to_train(trained[0]) is trained[0]


def test_tied_weights_stay_tied(trained, monkeypatch) -> None:
    monkeypatch.setattr(training_data_module, "has_bfloat16", lambda: True)
    model = tiny_llama()
    model.lm_head.weight = model.model.embed_tokens.weight
    learner = model_to_train(model)
    assert learner.lm_head.weight is learner.model.embed_tokens.weight


def test_what_is_not_kept_is_made_again(trained, monkeypatch) -> None:
    """Aims take memory by the token; learning from them is the same without."""
    model, tokenizer = trained
    texts = texts_of(tokenizer, 6)
    original = factors_of(0, 0.05)
    slopes = []
    for kept in (1 << 30, 0):
        monkeypatch.setattr(training_data_module, "MOST_STORED", kept)
        data = TrainingData.of(model, Teacher(original, texts), 2)
        assert [x.target is None for x in data.batches] == [kept == 0] * 3
        leaves = {
            p: (b.clone().requires_grad_(), a)
            for p, (b, a) in place(model, factors_of(1, 0.05)).items()
        }
        for number in range(3):
            data.add_gradients(model, leaves, number)
        slopes.append(torch.cat([b.grad.flatten() for b, _ in leaves.values()]))
    assert torch.equal(*slopes)
