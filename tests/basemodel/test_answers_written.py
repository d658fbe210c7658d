"""Greedy answers of batches whose rows leave when they are done."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

from hydraopt.basemodel import writing
from hydraopt.basemodel.encoding import Encoded, batches_by_tokens, encode_row
from hydraopt.basemodel.model import attached, place
from hydraopt.basemodel.rowcache import RowCache
from hydraopt.basemodel.writing import answered, ends_of, generate
from hydraopt.errors import NumericalError, UsageError
from tests.raising import raises
from tests.small_model import INSTRUCTION, ROWS

PATH = "model.layers.0.self_attn.q_proj"
MOST = 12


@pytest.fixture
def asked(trained):
    """(model, tokenizer, items, factors): prompts of unlike lengths, each with one of three."""
    model, tokenizer = trained
    items = [encode_row(tokenizer, INSTRUCTION, r["input"] * (1 + i % 3), r["output"])
             for i, r in enumerate(ROWS)]  # fmt: skip
    rng = np.random.default_rng(0)
    b, a = rng.standard_normal((32, 4)), rng.standard_normal((4, 32))
    some = [place(model, {PATH: (scale * b, a)}) for scale in (0.0, 0.1, 0.2)]
    return model, tokenizer, items, [some[i % 3] for i in range(len(items))]


def alone(model, tokenizer, item, most: int = MOST) -> list[tuple[int, ...]]:
    ends = {tokenizer.eos_token_id} - {None}
    return writing._by_transformers(
        model, tokenizer, [item.prompt], most, ends, writing._chosen(writing.likeliest, ())
    )


def by_transformers(model, tokenizer, items, factors) -> list[tuple[int, ...]]:
    said = []
    for item, placed in zip(items, factors, strict=True):
        with attached(model, placed):
            said += alone(model, tokenizer, item)
    return said


def test_a_batch_writes_what_transformers_writes_row_by_row(asked) -> None:
    model, tokenizer, items, factors = asked
    wanted = by_transformers(*asked)
    ends = {len(answer) for answer in wanted}
    assert len(ends) > 2  # rows that leave early
    assert MOST in ends  # and some that are cut
    assert any(tokenizer.eos_token_id in answer for answer in wanted)
    for tokens in (10, 60, 10**6):
        assert generate(model, tokenizer, items, factors, MOST, tokens) == wanted


def test_rows_that_are_done_cost_nothing_more(asked, monkeypatch) -> None:
    model, tokenizer, items, factors = asked
    stepped = []
    real = RowCache.step
    monkeypatch.setattr(RowCache, "step", lambda s, t: stepped.append(len(t)) or real(s, t))
    said = generate(model, tokenizer, items, factors, MOST, 10**6)
    # The prompt gives the first token of an answer, a step each of the others.
    assert sum(stepped) == sum(len(answer) - 1 for answer in said)
    assert stepped == sorted(stepped, reverse=True)


def test_others_come_in_as_rows_leave(asked, monkeypatch) -> None:
    model, tokenizer, items, factors = asked
    items, factors = 4 * items, 4 * factors
    # No two prompts are equal, so that each is computed.
    items = [Encoded((*x.prompt[:-1], 3 + i, x.prompt[-1]), ()) for i, x in enumerate(items)]
    wanted = generate(model, tokenizer, items, factors, MOST, 10**6)
    sizes = [len(item.prompt) + MOST for item in items]
    tokens = 6 * max(sizes)
    stepped, started = [], []
    step, start = RowCache.step, RowCache.start
    monkeypatch.setattr(RowCache, "step", lambda s, t: stepped.append(len(t)) or step(s, t))
    monkeypatch.setattr(RowCache, "start", lambda s, p: started.append(len(p)) or start(s, p))
    assert generate(model, tokenizer, items, factors, MOST, tokens) == wanted
    one_by_one = batches_by_tokens(sizes, tokens)
    assert len(stepped) < sum(max(len(wanted[i]) for i in chunk) - 1 for chunk in one_by_one)
    assert sum(started) == len(items)
    assert min(started[:-1]) > 1  # a few together


def test_equal_prompts_are_computed_once(asked, monkeypatch) -> None:
    model, tokenizer, items, factors = asked
    wanted = generate(model, tokenizer, items, factors, MOST, 10**6)
    started, start = [], RowCache.start
    monkeypatch.setattr(RowCache, "start", lambda s, p: started.append(len(p)) or start(s, p))
    assert generate(model, tokenizer, 3 * items, 3 * factors, MOST, 10**6) == 3 * wanted
    distinct = {(id(x), y.prompt) for x, y in zip(factors, items, strict=True)}
    assert started == [len(distinct)]


def test_each_answer_has_its_own_limit(asked, monkeypatch) -> None:
    model, tokenizer, items, factors = asked
    wanted = generate(model, tokenizer, items, factors, MOST, 10**6)
    limits = [1 + i % MOST for i in range(len(items))]
    cut = [answer[:limit] for answer, limit in zip(wanted, limits, strict=True)]
    assert cut != wanted
    for refuses in (False, True):
        if refuses:
            monkeypatch.setattr(RowCache, "start", lambda s, p: 1 // 0)
            monkeypatch.setattr(writing, "NO_ROWS", (ZeroDivisionError,))
        for tokens in (60, 10**6):
            assert generate(model, tokenizer, items, factors, limits, tokens) == cut


def test_nothing_asked_is_nothing_said(trained) -> None:
    assert generate(*trained, [], [], MOST, 10**6) == []


def test_a_hybrid_model_writes_as_well(trained) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    kinds = ["conv", "full_attention"]
    config = Lfm2Config(
        vocab_size=300, num_hidden_layers=2, num_key_value_heads=1, layer_types=kinds, **sizes
    )
    model, tokenizer = Lfm2ForCausalLM(config).eval(), trained[1]
    items = [encode_row(tokenizer, INSTRUCTION, r["input"], r["output"]) for r in ROWS[:3]]
    said = generate(model, tokenizer, items, [{}] * 3, MOST, 10**6)
    assert said == [alone(model, tokenizer, x)[0] for x in items]


def test_what_the_model_says_of_writing_does_not_count(asked, monkeypatch) -> None:
    model, tokenizer, items, _ = asked
    plain = alone(model, tokenizer, items[0])
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 3.0)
    assert alone(model, tokenizer, items[0]) == plain


@pytest.mark.parametrize("error", [UsageError("of no keys"), IndexError("of no states")])
def test_a_model_with_another_cache_is_left_to_transformers(asked, monkeypatch, error) -> None:
    model, tokenizer, items, factors = asked
    wanted = by_transformers(*asked)

    def refuse(self, prompts):
        raise error

    monkeypatch.setattr(RowCache, "start", refuse)
    assert generate(model, tokenizer, items, factors, MOST, 10**6) == wanted


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_answers(trained, monkeypatch, value, by_rows) -> None:
    model, tokenizer = trained
    if not by_rows:
        monkeypatch.setattr(RowCache, "start", lambda s, p: 1 // 0)
        monkeypatch.setattr(writing, "NO_ROWS", (ZeroDivisionError,))
    item = encode_row(tokenizer, INSTRUCTION, "1", "one")
    # Of what attention looks for, torch loses NaN among fewer than 16 tokens on some processors.
    path = PATH.replace("q_proj", "o_proj")
    bad = place(model, {path: (np.full((32, 1), value), np.ones((1, 32)))})
    with raises(NumericalError, expected="finite numbers"):
        generate(model, tokenizer, [item], [bad], MOST, 10**6)


@pytest.mark.parametrize("by_rows", [True, False])
def test_an_answer_ends_with_any_token_that_the_base_ends_with(asked, monkeypatch, by_rows) -> None:
    """As those of chat models, that list the end of a turn beside the tokenizer's EOS."""
    model, tokenizer, items, _ = asked
    whole = [x.target for x in answered(model, tokenizer, items, {}, MOST)]
    turn = max(whole, key=len)[1]
    assert turn != tokenizer.eos_token_id
    monkeypatch.setattr(model, "generation_config", copy.copy(model.generation_config))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, turn]
    assert ends_of(model, tokenizer) == {tokenizer.eos_token_id, turn}
    if not by_rows:
        monkeypatch.setattr(RowCache, "start", lambda s, p: 1 // 0)
        monkeypatch.setattr(writing, "NO_ROWS", (ZeroDivisionError,))
    said = [x.target for x in answered(model, tokenizer, items, {}, MOST)]
    cut = [x[: x.index(turn) + 1] if turn in x else x for x in whole]
    assert said == cut != whole
