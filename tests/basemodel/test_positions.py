"""Base models that have positions for so many tokens: answers end there, and prompts are refused
that are longer."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    XGLMConfig,
    XGLMForCausalLM,
)

from hydraopt.basemodel import writing
from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.positions import positions_of
from hydraopt.basemodel.rowcache import RowCache
from hydraopt.basemodel.writing import generate
from hydraopt.errors import UsageError
from tests.raising import raises
from tests.small_model import make_tokenizer, tiny_llama

PLACES, VOCABULARY = 20, 259
TABLES = {
    "opt": lambda: OPTForCausalLM(
        OPTConfig(vocab_size=VOCABULARY, hidden_size=32, num_attention_heads=4, ffn_dim=48,
                  num_hidden_layers=1, max_position_embeddings=PLACES, word_embed_proj_dim=32)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_positions=PLACES, n_embd=32, n_layer=1, n_head=4)
    ),
    "gptj": lambda: GPTJForCausalLM(
        GPTJConfig(vocab_size=VOCABULARY, n_positions=PLACES, n_embd=32, n_layer=1, n_head=4,
                   rotary_dim=4)
    ),
}  # fmt: skip
NONE = {
    "llama": lambda: tiny_llama(vocab_size=VOCABULARY, max_position_embeddings=PLACES),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=4)
    ),
    "xglm": lambda: XGLMForCausalLM(
        XGLMConfig(vocab_size=VOCABULARY, d_model=32, ffn_dim=48, num_layers=1, attention_heads=4,
                   max_position_embeddings=PLACES)
    ),
}  # fmt: skip


def made(kinds, name: str):
    torch.manual_seed(0)
    return kinds[name]().eval().requires_grad_(False)


def never_ending():
    tokenizer = make_tokenizer()
    tokenizer.eos_token = tokenizer.pad_token = None
    return tokenizer


def asked(*lengths: int) -> list[Encoded]:
    return [Encoded((1, *range(3, 2 + length)), ()) for length in lengths]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("by_rows", [True, False])
def test_an_answer_ends_where_positions_end(name: str, by_rows: bool, monkeypatch) -> None:
    model, tokenizer = made(TABLES, name), never_ending()
    assert positions_of(model) == PLACES
    if not by_rows:
        monkeypatch.setattr(RowCache, "start", lambda s, p: 1 // 0)
        monkeypatch.setattr(writing, "NO_ROWS", (ZeroDivisionError,))
    items = asked(4, 15, PLACES)
    said = generate(model, tokenizer, items, [{}] * 3, 12, 10**6)
    assert [len(answer) for answer in said] == [12, 6, 1]
    for item, answer in zip(items, said, strict=True):
        tokens = list(item.prompt)
        for _ in answer:
            with torch.no_grad():
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        assert tuple(tokens[len(item.prompt) :]) == answer


@pytest.mark.parametrize("name", TABLES)
def test_a_prompt_that_does_not_fit_is_refused_by_number(name: str) -> None:
    model = made(TABLES, name)
    with raises(UsageError, what="prompt 2", got="21 tokens", expected=f"1 to {PLACES}"):
        generate(model, never_ending(), asked(4, PLACES + 1), [{}] * 2, 12, 10**6)


@pytest.mark.parametrize("name", NONE)
def test_others_write_on(name: str) -> None:
    model = made(NONE, name)
    assert positions_of(model) is None
    said = generate(model, never_ending(), asked(4, PLACES + 4), [{}] * 2, 12, 10**6)
    assert [len(answer) for answer in said] == [12, 12]


def test_an_empty_prompt_is_refused_by_number(trained) -> None:
    with raises(UsageError, got="0 tokens"):
        generate(*trained, [*asked(4), Encoded((), ())], [{}] * 2, 4, 10**6)


def test_a_token_that_is_not_embedded_is_refused_by_number(trained) -> None:
    """Tokens of a chat may have been added to the tokenizer alone."""
    model, tokenizer = trained
    rows = model.get_input_embeddings().num_embeddings
    wrong = Encoded((1, rows, 3), ())
    with raises(UsageError, what="prompt 2", got=f"token {rows}", expected=str(rows)):
        generate(model, tokenizer, [*asked(4), wrong], [{}] * 2, 4, 10**6)
