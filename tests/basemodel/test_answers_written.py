"""Greedy answers of batches whose rows leave when they are done."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

from hydraopt.basemodel import writing
from hydraopt.basemodel.encoding import encode_row
from hydraopt.basemodel.model import attached, place
from hydraopt.basemodel.rowcache import RowCache
from hydraopt.basemodel.writing import generate
from hydraopt.errors import UsageError
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


def by_transformers(model, tokenizer, items, factors) -> list[tuple[int, ...]]:
    said = []
    for item, placed in zip(items, factors, strict=True):
        with attached(model, placed):
            said += writing._by_transformers(model, tokenizer, [item.prompt], MOST)
    return said


def test_a_batch_writes_what_transformers_writes_row_by_row(asked) -> None:
    model, tokenizer, items, factors = asked
    wanted = by_transformers(*asked)
    ends = {len(answer) for answer in wanted}
    assert len(ends) > 2  # rows that leave early
    assert MOST in ends  # and some that are cut
    assert any(tokenizer.eos_token_id in answer for answer in wanted)
    for tokens in (10, 60, 10**6):
        said = dict(generate(model, tokenizer, items, factors, MOST, tokens))
        assert [said[i] for i in range(len(items))] == wanted


def test_rows_that_are_done_cost_nothing_more(asked, monkeypatch) -> None:
    model, tokenizer, items, factors = asked
    stepped = []
    real = RowCache.step
    monkeypatch.setattr(RowCache, "step", lambda s, t: stepped.append(len(t)) or real(s, t))
    said = dict(generate(model, tokenizer, items, factors, MOST, 10**6))
    # The prompt gives the first token of an answer, a step each of the others.
    assert sum(stepped) == sum(len(answer) - 1 for answer in said.values())
    assert stepped == sorted(stepped, reverse=True)


def test_a_hybrid_model_writes_as_well(trained) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    kinds = ["conv", "full_attention"]
    config = Lfm2Config(
        vocab_size=300, num_hidden_layers=2, num_key_value_heads=1, layer_types=kinds, **sizes
    )
    model, tokenizer = Lfm2ForCausalLM(config).eval(), trained[1]
    items = [encode_row(tokenizer, INSTRUCTION, r["input"], r["output"]) for r in ROWS[:3]]
    said = dict(generate(model, tokenizer, items, [{}] * 3, MOST, 10**6))
    alone = [writing._by_transformers(model, tokenizer, [x.prompt], MOST)[0] for x in items]
    assert [said[i] for i in range(3)] == alone


def test_what_the_model_says_of_writing_does_not_count(asked, monkeypatch) -> None:
    model, tokenizer, items, _ = asked
    plain = writing._by_transformers(model, tokenizer, [items[0].prompt], MOST)
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 3.0)
    assert writing._by_transformers(model, tokenizer, [items[0].prompt], MOST) == plain


@pytest.mark.parametrize("error", [UsageError("of no keys"), IndexError("of no states")])
def test_a_model_with_another_cache_is_left_to_transformers(asked, monkeypatch, error) -> None:
    model, tokenizer, items, factors = asked
    wanted = by_transformers(*asked)

    def refuse(self, prompts):
        raise error

    monkeypatch.setattr(RowCache, "start", refuse)
    said = dict(generate(model, tokenizer, items, factors, MOST, 10**6))
    assert [said[i] for i in range(len(items))] == wanted
