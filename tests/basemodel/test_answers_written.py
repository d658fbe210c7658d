"""Greedy answers of batches whose rows leave when they are done."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from hydraopt.errors import NumericalError, UsageError
from hydraopt.model import (
    Encoded,
    RowCache,
    attached,
    batches_by_tokens,
    encode_row,
    ends_of,
    generate,
    generation as writing,
    place,
    positions_of,
)
from hydraopt.model.generation import answered
from tests.raising import raises
from tests.small_model import INSTRUCTION, ROWS, make_tokenizer, tiny_llama

PATH = "model.layers.0.self_attn.q_proj"
MOST = 12


@pytest.fixture
def asked(trained):
    """(model, tokenizer, items, factors): prompts of unlike lengths."""
    model, tokenizer = trained
    items = [encode_row(tokenizer, INSTRUCTION, r["input"] * (1 + i % 3), r["output"])
             for i, r in enumerate(ROWS)]  # fmt: skip
    rng = np.random.default_rng(0)
    b, a = rng.standard_normal((32, 4)), rng.standard_normal((4, 32))
    return model, tokenizer, items, place(model, {PATH: (0.1 * b, a)})


@pytest.fixture(params=[True, False], ids=["rows", "transformers"])
def by_rows(request, monkeypatch) -> bool:
    """Whether the model's cache has rows; else transformers writes, one after another."""
    if not request.param:
        monkeypatch.setattr(RowCache, "start", lambda s, p: 1 // 0)
        monkeypatch.setattr(writing, "NO_ROWS", (ZeroDivisionError,))
    return request.param


def plainly(model, tokenizer, items, placed, most: int = MOST) -> list[tuple[int, ...]]:
    """The likeliest token after all that was written, without a cache."""
    answers = []
    with torch.no_grad(), attached(model, placed):
        for item in items:
            said: list[int] = []
            while len(said) < most and tokenizer.eos_token_id not in said:
                ids = torch.tensor([[*item.prompt, *said]])
                said.append(int(model(ids, use_cache=False).logits[0, -1].argmax()))
            answers.append(tuple(said))
    return answers


def test_a_batch_writes_what_each_row_alone_would(asked, by_rows, monkeypatch) -> None:
    """Whatever the model's own settings of generation are."""
    model, tokenizer, items, placed = asked
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 3.0)
    wanted = plainly(*asked)
    ends = {len(answer) for answer in wanted}
    assert len(ends) > 2  # rows that leave early
    assert MOST in ends  # and some that are cut
    assert any(tokenizer.eos_token_id in answer for answer in wanted)
    limits = [1 + i % MOST for i in range(len(items))]
    cut = [answer[:limit] for answer, limit in zip(wanted, limits, strict=True)]
    for tokens in (10, 60, 10**6):
        given = {"batch_tokens": tokens}
        assert generate(model, tokenizer, items, placed, MOST, **given) == wanted
        assert generate(model, tokenizer, items, placed, limits, **given) == cut != wanted
    assert generate(model, tokenizer, [], placed, MOST) == []


def test_rows_that_are_done_cost_nothing_more(asked, monkeypatch) -> None:
    stepped = []
    real = RowCache.step
    monkeypatch.setattr(RowCache, "step", lambda s, t: stepped.append(len(t)) or real(s, t))
    said = generate(*asked, MOST)
    # The prompt gives the first token of an answer, a step each of the others.
    assert sum(stepped) == sum(len(answer) - 1 for answer in said)
    assert stepped == sorted(stepped, reverse=True)


def test_others_come_in_as_rows_leave(asked, monkeypatch) -> None:
    model, tokenizer, items, placed = asked
    # No two prompts are equal, so that each is computed.
    items = [Encoded((*x.prompt[:-1], 3 + i, x.prompt[-1]), ()) for i, x in enumerate(4 * items)]
    wanted = generate(model, tokenizer, items, placed, MOST)
    sizes = [len(item.prompt) + MOST for item in items]
    tokens = 6 * max(sizes)
    stepped, started = [], []
    step, start = RowCache.step, RowCache.start
    monkeypatch.setattr(RowCache, "step", lambda s, t: stepped.append(len(t)) or step(s, t))
    monkeypatch.setattr(RowCache, "start", lambda s, p: started.append(len(p)) or start(s, p))
    assert generate(model, tokenizer, items, placed, MOST, batch_tokens=tokens) == wanted
    one_by_one = batches_by_tokens(sizes, tokens)
    assert len(stepped) < sum(max(len(wanted[i]) for i in chunk) - 1 for chunk in one_by_one)
    assert sum(started) == len(items)
    assert min(started[:-1]) > 1  # a few together


def test_equal_prompts_are_computed_once(asked, monkeypatch) -> None:
    model, tokenizer, items, placed = asked
    wanted = generate(*asked, MOST)
    started, start = [], RowCache.start
    monkeypatch.setattr(RowCache, "start", lambda s, p: started.append(len(p)) or start(s, p))
    assert generate(model, tokenizer, 3 * items, placed, MOST) == 3 * wanted
    assert started == [len({x.prompt for x in items})]


def test_a_hybrid_model_writes_as_well(trained) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    kinds = ["conv", "full_attention"]
    config = Lfm2Config(
        vocab_size=300, num_hidden_layers=2, num_key_value_heads=1, layer_types=kinds, **sizes
    )
    model, tokenizer = Lfm2ForCausalLM(config).eval(), trained[1]
    items = [encode_row(tokenizer, INSTRUCTION, r["input"], r["output"]) for r in ROWS[:3]]
    assert generate(model, tokenizer, items, {}, MOST) == plainly(model, tokenizer, items, {})


@pytest.mark.parametrize("error", [UsageError("of no keys"), IndexError("of no states")])
def test_a_model_with_another_cache_is_left_to_transformers(asked, monkeypatch, error) -> None:
    def refuse(self, prompts):
        raise error

    monkeypatch.setattr(RowCache, "start", refuse)
    assert generate(*asked, MOST) == plainly(*asked)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_answers(trained, by_rows, value) -> None:
    model, tokenizer = trained
    item = encode_row(tokenizer, INSTRUCTION, "1", "one")
    # Of what attention looks for, torch loses NaN among fewer than 16 tokens on some processors.
    path = PATH.replace("q_proj", "o_proj")
    bad = place(model, {path: (np.full((32, 1), value), np.ones((1, 32)))})
    with raises(NumericalError, expected="finite numbers"):
        generate(model, tokenizer, [item], bad, MOST)


def test_an_answer_ends_with_any_token_that_the_base_ends_with(asked, monkeypatch, by_rows) -> None:
    """As those of chat models, that list the end of a turn beside the tokenizer's EOS."""
    model, tokenizer, items, _ = asked
    whole = [x.target for x in answered(model, tokenizer, items, {}, MOST)]
    turn = max(whole, key=len)[1]
    assert turn != tokenizer.eos_token_id
    monkeypatch.setattr(model, "generation_config", copy.copy(model.generation_config))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, turn]
    assert ends_of(model, tokenizer) == {tokenizer.eos_token_id, turn}
    said = [x.target for x in answered(model, tokenizer, items, {}, MOST)]
    cut = [x[: x.index(turn) + 1] if turn in x else x for x in whole]
    assert said == cut != whole


# --- base models that have positions for so many tokens: answers  --------------------------------


PLACES, VOCABULARY = 20, 259
TABLES = {
    "opt": lambda: OPTForCausalLM(
        OPTConfig(vocab_size=VOCABULARY, hidden_size=32, num_attention_heads=4, ffn_dim=48,
                  num_hidden_layers=1, max_position_embeddings=PLACES, word_embed_proj_dim=32)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_positions=PLACES, n_embd=32, n_layer=1, n_head=4)
    ),
    "llama": lambda: tiny_llama(vocab_size=VOCABULARY, max_position_embeddings=PLACES),
}  # fmt: skip


def made(name: str):
    torch.manual_seed(0)
    return TABLES[name]().eval().requires_grad_(False)


def never_ending():
    tokenizer = make_tokenizer()
    tokenizer.eos_token = tokenizer.pad_token = None
    return tokenizer


def of_lengths(*lengths: int) -> list[Encoded]:
    return [Encoded((1, *range(3, 2 + length)), ()) for length in lengths]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("by_rows", [True, False])
def test_an_answer_ends_where_positions_end(name: str, by_rows: bool, monkeypatch) -> None:
    model, tokenizer = made(name), never_ending()
    assert positions_of(model) == PLACES
    if not by_rows:
        monkeypatch.setattr(RowCache, "start", lambda s, p: 1 // 0)
        monkeypatch.setattr(writing, "NO_ROWS", (ZeroDivisionError,))
    items = of_lengths(4, 15, PLACES)
    said = generate(model, tokenizer, items, {}, 12)
    assert [len(answer) for answer in said] == [12, 6, 1]
    for item, answer in zip(items, said, strict=True):
        tokens = list(item.prompt)
        for _ in answer:
            with torch.no_grad():
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        assert tuple(tokens[len(item.prompt) :]) == answer


@pytest.mark.parametrize("name", TABLES)
def test_a_prompt_that_does_not_fit_is_refused_by_number(name: str) -> None:
    model = made(name)
    with raises(UsageError, what="prompt 2", got="21 tokens", expected=f"1 to {PLACES}"):
        generate(model, never_ending(), of_lengths(4, PLACES + 1), {}, 12)


def test_a_model_that_states_no_context_writes_on() -> None:
    config = BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=4)
    model = BloomForCausalLM(config).eval()
    assert positions_of(model) is None
    said = generate(model, never_ending(), of_lengths(4, PLACES + 4), {}, 12)
    assert [len(answer) for answer in said] == [12, 12]


def test_an_empty_prompt_is_refused_by_number(trained) -> None:
    with raises(UsageError, got="0 tokens"):
        generate(*trained, [*of_lengths(4), Encoded((), ())], {}, 4)


def test_a_token_that_is_not_embedded_is_refused_by_number(trained) -> None:
    """Tokens of a chat may have been added to the tokenizer alone."""
    model, tokenizer = trained
    rows = model.get_input_embeddings().num_embeddings
    wrong = Encoded((1, rows, 3), ())
    with raises(UsageError, what="prompt 2", got=f"token {rows}", expected=str(rows)):
        generate(model, tokenizer, [*of_lengths(4), wrong], {}, 4)
