"""What other factors do to an adapter's own answers; the judge and its memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hydraopt.bundle import Harm
from hydraopt.merging import DEFAULT_HARM, MeasuredHarm
from hydraopt.model import (
    Encoded,
    attached,
    divergence,
    drift as drift_module,
    generate,
    hidden_states,
    judge as module,
    logits_of,
    place,
)
from hydraopt.model.drift import (
    Drift,
    drift_of,
    held_out,
    held_out_of_more,
    likely_changes,
    reference_of,
    split_likely,
    surely_more,
)
from hydraopt.model.generation import answered
from hydraopt.model.texts import collate
from tests.basemodel.cases import asked_of, factors_of
from tests.harm.cases import measured


def noisy(factors, size: float, seed: int = 9):
    rng = np.random.default_rng(seed)
    return {p: (b + size * rng.standard_normal(b.shape), a) for p, (b, a) in factors.items()}


@pytest.fixture
def said(trained):
    model, tokenizer = trained
    return answered(model, tokenizer, asked_of(tokenizer), factors_of(0), 16)


@pytest.mark.parametrize("likeliest", [10**6, 4], ids=["likeliest", "open"])
@pytest.mark.parametrize("moved", [0.0, 1e-6])
def test_the_original_itself_does_no_harm(trained, said, monkeypatch, likeliest, moved) -> None:
    """Nor do factors that differ in their last bits: sums of float32 are off by more than KL is."""
    model, _ = trained
    monkeypatch.setattr(drift_module, "LIKELIEST", likeliest)
    original = factors_of(0)
    reference = reference_of(model, said, original)
    assert any(len(x.open) for pieces in reference.token_logits for x in pieces) == (likeliest == 4)
    drift = drift_of(model, reference, noisy(original, moved))
    assert drift.changed == 0
    assert drift.kl.max() < 1e-8
    assert (drift.kl >= 0).all()
    assert likely_changes(drift).max() < 1e-9
    rows = np.bincount(drift.row, minlength=len(said))
    assert rows.tolist() == [len(x.target) for x in said]


def test_changed_answers_are_those_that_greedy_decoding_writes_otherwise(trained, said) -> None:
    model, tokenizer = trained
    original, other = factors_of(0), noisy(factors_of(0), 0.1)
    drift = drift_of(model, reference_of(model, said, original), other)
    placed = place(model, other)
    prompts = [Encoded(x.prompt, ()) for x in said]
    written = generate(model, tokenizer, prompts, placed, 16)
    differ = sum(written[i] != x.target for i, x in enumerate(said))
    assert 0 < differ < len(said)
    assert drift.changed == differ


def test_kl_is_that_of_the_whole_answer(trained, said) -> None:
    """By hand, for one answer, in float64."""
    model, _ = trained
    original, other = factors_of(0), noisy(factors_of(0), 0.1)
    drift = drift_of(model, reference_of(model, said[:3], original), other)
    found = np.bincount(drift.row, drift.kl, 3)
    for i in range(3):
        logs = []
        for factors in (original, other):
            with torch.no_grad(), attached(model, place(model, factors)):
                hidden = hidden_states(model, collate([said[i]]))
                logs.append(logits_of(model, hidden, {}).double().log_softmax(-1))
        wanted = float((logs[0].exp() * (logs[0] - logs[1])).sum())
        assert found[i] == pytest.approx(wanted, rel=1e-3, abs=1e-6)


def test_tokens_that_are_not_told_apart_cost_little(trained, said, monkeypatch) -> None:
    model, _ = trained
    original, other = factors_of(0), noisy(factors_of(0), 0.05)
    whole = drift_of(model, reference_of(model, said, original), other)
    monkeypatch.setattr(drift_module, "LIKELIEST", 100)
    monkeypatch.setattr(drift_module, "OPEN", 1.0)
    lumped = drift_of(model, reference_of(model, said, original), other)
    assert (lumped.kl <= whole.kl + 1e-6).all()
    assert lumped.kl.sum() > 0.7 * whole.kl.sum()
    assert np.allclose(lumped.moved, whole.moved, atol=1e-4)


def test_where_many_tokens_are_likely_all_are_told_apart(trained, said, monkeypatch) -> None:
    model, _ = trained
    original, other = factors_of(0), noisy(factors_of(0), 0.05)
    whole = drift_of(model, reference_of(model, said, original), other)
    monkeypatch.setattr(drift_module, "LIKELIEST", 4)
    monkeypatch.setattr(drift_module, "OPEN_TOKENS", 3)
    reference = reference_of(model, said, original)
    few = drift_of(model, reference, other)
    assert any(len(x.open) > 3 for pieces in reference.token_logits for x in pieces)
    assert np.allclose(few.kl, whole.kl, rtol=0.01, atol=1e-5)
    assert few.kl.sum() == pytest.approx(whole.kl.sum(), rel=1e-3)


def test_pieces_are_the_same(trained, said, monkeypatch) -> None:
    model, _ = trained
    original, other = factors_of(0), noisy(factors_of(0), 0.05)
    whole = drift_of(model, reference_of(model, said, original), other)
    monkeypatch.setattr(drift_module, "TOKENS", 5)
    pieces = drift_of(model, reference_of(model, said, original), other)
    assert np.array_equal(pieces.row, whole.row)
    assert np.allclose(pieces.kl, whole.kl, atol=1e-5)


def test_likely_changes_agree_with_noise_drawn_anew() -> None:
    """Margins that move by independent noise of one size: the share foretold from a single draw is
    the mean of many."""
    rng = np.random.default_rng(0)
    answers, tokens, size = 400, 6, 0.8
    row = np.repeat(np.arange(answers), tokens)
    margin = rng.exponential(4.0, row.size)
    nothing = np.zeros(row.size)
    counts = [
        Drift(row, nothing, margin, size * rng.standard_normal(row.size), answers)
        for _ in range(200)
    ]
    share = np.mean([x.changed for x in counts]) / answers
    told = likely_changes(counts[0])
    assert told.mean() == pytest.approx(share, rel=0.1)
    summary = counts[0].summary()
    spread = np.std([likely_changes(x).mean() for x in counts])
    assert spread < 0.8 * np.std([x.changed / answers for x in counts])
    assert summary.harm.likely == pytest.approx(told.mean())


def test_margins_that_shrink_in_step_change_nothing() -> None:
    """A weaker adapter of the same opinion: however far margins move, only the noise changes
    answers."""
    rng = np.random.default_rng(0)
    row, nothing = np.arange(2000), np.zeros(2000)
    margin, noise = rng.exponential(4.0, row.size), 0.5 * rng.standard_normal(row.size)
    shares = []
    for lean, shrunk in ((0.0, 0.0), (0.0, 0.5), (0.0, 0.9), (0.5, 0.3)):
        moved = lean + shrunk * margin + (1 - shrunk) * noise
        drift = Drift(row, nothing, margin, moved, row.size)
        assert likely_changes(drift).mean() == pytest.approx(drift.changed / row.size, rel=0.15)
        shares.append(likely_changes(drift).mean())
    assert np.ptp(shares[:3]) < 0.005
    assert shares[3] > 2 * shares[0]
    gone = Drift(row, nothing, margin, 1.5 * margin + noise, row.size)
    assert likely_changes(gone).mean() == pytest.approx(gone.changed / row.size, rel=0.05)


def test_a_line_through_few_margins_says_nothing_of_the_others() -> None:
    """Two near ties that move apart have a steep line; answers that are sure stay."""
    rng = np.random.default_rng(0)
    margin = np.array([0.05, 0.06, *rng.uniform(4, 10, 40)])
    moved = np.array([-0.04, 0.04, *(0.05 * rng.standard_normal(40))])
    drift = Drift(np.arange(42), np.zeros(42), margin, moved, 42)
    assert drift.changed == 0
    likely = likely_changes(drift)
    assert likely[2:].max() < 1e-6
    # Two say nothing of the size of the noise either, so they are not told as safe.
    assert 0.005 < likely[:2].min() < likely[:2].max() < 0.5


def test_what_moved_far_here_is_likelier_to_change_in_another_draft() -> None:
    margin, moved = np.full(100, 1.0), np.where(np.arange(100) < 50, 0.8, -0.8)
    likely = likely_changes(Drift(np.arange(100), np.zeros(100), margin, moved, 100))
    assert likely[0] > 5 * likely[-1] > 0


def test_nothing_said_is_nothing_changed(trained) -> None:
    model, tokenizer = trained
    silent = asked_of(tokenizer, range(3))
    drift = drift_of(model, reference_of(model, silent, factors_of(0)), factors_of(1))
    assert drift.summary() == MeasuredHarm(Harm(0, 3, 0.0, 0.0, False), 0.0)


@pytest.mark.parametrize(
    ("more", "surely"),
    [
        ([0.3, -0.3, 0.2, -0.1, 0.1, 0.0], False),  # a little more, by chance
        ([0.1, 0.1, 0.1, 0.1, 0.2, 0.1], True),
        ([0.0, -0.1, -0.1, -0.1, -0.2, 0.0], False),
        ([0.0] * 6, False),
        ([0.3, -0.25] * 12, False),
        ([0.3, -0.05] * 12, True),
    ],
)
def test_of_a_few_answers_more_may_change_by_chance(more, surely: bool) -> None:
    shares = np.linspace(0, 1, len(more))
    assert surely_more(shares, shares + more) == surely


@pytest.mark.parametrize(
    ("count", "more", "judges"),
    [
        (8, 0, [3, 7]),
        (8, 8, [1, 3, 5, 7]),
        (8, 4, [1, 4, 7]),
        (8, 24, list(range(8))),
        (8, 300, list(range(8))),
        (3, 0, []),
        (3, 1, [2]),
        (0, 9, []),
    ],
)
def test_a_quarter_of_all_is_held_out_of_the_first(count: int, more: int, judges) -> None:
    answers = [Encoded((1,), (2,))] * count
    assert held_out(answers, more) == ([i for i in range(count) if i not in judges], judges)
    spoken = [Encoded((1,), ()), *answers]
    assert held_out(spoken, more)[1] == [i + 1 for i in judges]


@pytest.mark.parametrize(
    ("answers", "more", "judges"),
    [(8, 24, []), (8, 32, [8, 24]), (3, 21, [3, 10, 17]), (40, 0, []), (0, 9, [2, 6])],
)
def test_others_judge_where_the_first_are_too_few(answers: int, more: int, judges) -> None:
    held = len(held_out([Encoded((1,), (2,))] * answers, more)[1])
    assert held_out_of_more(held, answers, more) == judges


def test_no_more_judge_than_it_takes_and_none_twice() -> None:
    for answers, more in ((24, 300), (64, 960), (64, 192), (90, 5000)):
        judges = held_out_of_more(answers, answers, more)
        assert (
            len(judges)
            == min((answers + more) // DEFAULT_HARM.held_out, DEFAULT_HARM.most_held_out) - answers
        )
        assert len(set(judges)) == len(judges)
        assert all(0 <= i < more for i in judges)
    assert held_out_of_more(200, 200, 1000) == []


def test_what_was_measured_is_remembered(judge_of, monkeypatch, tmp_path: Path) -> None:
    other = noisy(factors_of(0), 0.05)
    first = measured(judge_of(), "fr", other)
    assert first.harm.answers == 24
    assert first.harm.kl > 0
    assert len(list((tmp_path / "memory").iterdir())) == 2  # answers, and what was measured

    def never(*_args, **_more):
        raise AssertionError("asked")

    monkeypatch.setattr(module, "answered", never)
    for name in ("reference_of", "drift_of"):
        monkeypatch.setattr(module, name, never)
    assert measured(judge_of(), "fr", other) == first
    with pytest.raises(AssertionError, match="asked"):
        measured(judge_of(), "fr", noisy(factors_of(0), 0.05, seed=10))


def test_where_nothing_is_held_out_all_prompts_judge(judge_of) -> None:
    """As of a task whose stream was refitted with the prompts of another of the same content."""
    for count, judged in ((2, 2), (8, 8), (16, 4)):  # a refit takes sixteen at least
        judge = judge_of(count, refits=True)
        assert measured(judge, "fr", factors_of(1), apart=True).harm.answers == judged


# --- kl between distributions that are nearly the same -------------------------------------------


def test_each_token_counts_no_less_than_nothing() -> None:
    rng = np.random.default_rng(0)
    want, got = (torch.tensor(rng.standard_normal((64, 50))).log_softmax(-1) for _ in range(2))
    wanted = (want.exp() * (want - got)).sum(-1)
    assert torch.allclose(divergence(want, got), wanted, rtol=1e-12)
    # Sums that rounding has left off one count by the square of that.
    off = divergence(want, want - 1e-6)
    assert ((off > 0) & (off < 1e-12)).all()
    assert torch.allclose(off, torch.full_like(off, 0.5e-12), rtol=1e-3)
    # Tokens that have no chance before, after, or ever.
    some = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    other = torch.tensor([[0.5, 0.5, 0.0]]).log()
    assert divergence(some, other)[0] == pytest.approx(np.log(2))
    assert divergence(other, some)[0] == np.inf
    assert divergence(some.float(), some.float())[0] == 0


def test_what_is_left_beside_the_likeliest_is_told_to_the_last_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn((8, 5000), generator=generator) + 100
    logits[:4, 0] += 60  # of these next to nothing is left
    tokens = logits.topk(200, dim=-1)[1]
    logs, rest, total = split_likely(logits, tokens)
    exact = logits.double().log_softmax(-1)
    assert torch.allclose(total, logits.double().logsumexp(-1, keepdim=True), rtol=0, atol=1e-7)
    assert torch.allclose(logs, exact.gather(1, tokens), rtol=0, atol=1e-7)
    left = exact.exp().sum(-1) - exact.gather(1, tokens).exp().sum(-1)
    assert torch.allclose(rest[4:], left[4:], rtol=1e-5)
    assert ((rest[:4] > 0) & (rest[:4] <= 1e-9)).all()


def test_what_is_no_number_stays_none() -> None:
    logits = torch.tensor([[0.0, torch.nan, 1.0], [0.0, torch.inf, 1.0]])
    logs, rest, total = split_likely(logits, torch.tensor([[0, 2], [0, 2]]))
    assert not any(torch.isfinite(x).any() for x in (logs, rest, total))


# --- the standard error that is told beside a kl -------------------------------------------------


def drift_with(kl) -> Drift:
    """An answer of one token for each KL."""
    same = np.ones(len(kl))
    return Drift(np.arange(len(kl)), np.array(kl, float), same, same, len(kl))


def test_an_error_is_of_the_spread_that_a_sample_tells() -> None:
    """The mean square error of the mean, by drawing samples of three again and again."""
    rng = np.random.default_rng(0)
    told = [drift_with(rng.exponential(size=3)).summary() for _ in range(3000)]
    wanted = np.mean([(x.harm.kl - 1) ** 2 for x in told])
    assert np.mean([x.kl_error**2 for x in told]) == pytest.approx(wanted, rel=0.1)


def test_one_answer_is_not_told_as_sure() -> None:
    told = drift_with([0.2]).summary()
    assert told.kl_error == told.harm.kl == pytest.approx(0.2)
