"""Models that give a module rows and tokens as one dimension: OPT's feed-forward layers, Qwen's
shared experts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.model import attached, attached_in_blocks, place
from hydraopt.basemodel.sensitivity import look, looks, sensitivities
from hydraopt.basemodel.writing import generate
from hydraopt.errors import AlignmentError
from tests.marks import slow
from tests.raising import raises
from tests.small_model import make_tokenizer

SIZES = {"vocab_size": 259, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}


def opt():
    config = OPTConfig(
        **SIZES, ffn_dim=48, max_position_embeddings=64, word_embed_proj_dim=32, dropout=0.0
    )
    paths = [f"model.decoder.layers.{i}.fc{k}" for i in range(2) for k in (1, 2)]
    return OPTForCausalLM(config), paths


def moe():
    config = Qwen2MoeConfig(
        **SIZES,
        intermediate_size=48,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
    )
    names = [f"{x}_proj" for x in ("gate", "up", "down")]
    return Qwen2MoeForCausalLM(config), [f"model.layers.0.mlp.shared_expert.{x}" for x in names]


@pytest.fixture(params=[opt, moe], ids=["opt", "moe"])
def flat(request):
    """(model, paths of modules whose input is flat); far from uniform."""
    torch.manual_seed(0)
    model, paths = request.param()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(8 if tensor.dim() == 2 else 1)
    return model.eval().requires_grad_(False), paths


def factors_for(model, paths, seed: int, size: float = 0.4):
    rng, made = np.random.default_rng(seed), {}
    for path in paths:
        m, n = model.get_submodule(path).weight.shape
        made[path] = size * rng.standard_normal((m, 2)), rng.standard_normal((2, n))
    return made


def prompts(count: int = 7) -> list[Encoded]:
    rng = np.random.default_rng(1)
    return [Encoded((1, *rng.integers(3, 259, 2 + i).tolist()), ()) for i in range(count)]


def test_rows_of_several_tasks_have_their_own_factors(flat) -> None:
    model, paths = flat
    sets = [place(model, factors_for(model, paths, seed)) for seed in range(2)]
    ids = torch.tensor([[1, 5, 9, 40], [1, 7, 11, 50], [1, 8, 12, 60]])
    with torch.no_grad():
        with attached_in_blocks(model, [(sets[0], 2), (sets[1], None)]):
            mixed = model(ids).logits
        with attached_in_blocks(model, [(sets[0], 2), ({}, 1)]):
            half = model(ids).logits
        alone = []
        for row, placed in zip(ids, (sets[0], sets[0], sets[1], {}), strict=False):
            with attached(model, placed):
                alone.append(model(row[None]).logits[0])
        bare = model(ids[2:]).logits[0]
    torch.testing.assert_close(mixed, torch.stack(alone), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(half, torch.stack([*alone[:2], bare]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tasks", [slow(1), 2])
def test_answers_are_those_of_each_row_alone(flat, tasks: int) -> None:
    model, paths = flat
    tokenizer, asked = make_tokenizer(), prompts(12)
    sets = [place(model, factors_for(model, paths, seed)) for seed in range(tasks)]
    factors = [sets[i % tasks] for i in range(len(asked))]
    wanted = []
    for item, placed in zip(asked, factors, strict=True):
        wanted += generate(model, tokenizer, [item], [placed], 8, 10**6)
    bare = generate(model, tokenizer, asked, [{}] * len(asked), 8, 10**6)
    assert wanted != bare
    assert generate(model, tokenizer, asked, factors, 8, 10**6) == wanted


@pytest.mark.parametrize("several", [True, False])
def test_what_a_part_of_the_tokens_is_given_to_is_refused(flat, several: bool) -> None:
    model, paths = flat
    sets = [place(model, factors_for(model, paths[:1], seed)) for seed in range(2)]
    module = model.get_submodule(paths[0])
    blocks = [(sets[0], 1), (sets[1], None)] if several else [(sets[0], None)]
    with torch.no_grad(), attached_in_blocks(model, blocks):
        model.get_input_embeddings()(torch.ones(2, 3, dtype=torch.long))
        for count in (5, 4, 2):
            given = torch.ones(count, module.in_features)
            if several:
                with pytest.raises(AlignmentError):
                    module(given)
            else:
                assert module(given).shape == (count, module.out_features)


# --- what matters ---------------------------------------------------------------------------------


def texts() -> list[Encoded]:
    rng = np.random.default_rng(2)
    return [Encoded((1, 5, 6 + i)[: 2 + i % 2], tuple(rng.integers(3, 259, 2 + i).tolist()))
            for i in range(4)]  # fmt: skip


def test_modules_are_seen_without_padding(flat) -> None:
    model, paths = flat
    factors = factors_for(model, paths, 0, 0.1)
    every = texts()
    seen = look(model, every, factors)
    tokens = sum(len(text) - 1 for text in every)
    alone = [look(model, [text], factors) for text in every]
    assert len(seen.text) == tokens
    for path in paths:
        m, n = model.get_submodule(path).weight.shape
        assert (seen.x[path].shape, seen.g[path].shape) == ((tokens, n), (tokens, m))
        for mine in ("x", "g"):
            wanted = torch.cat([getattr(one, mine)[path] for one in alone])
            torch.testing.assert_close(getattr(seen, mine)[path], wanted, rtol=1e-3, atol=1e-4)
    found = sensitivities(looks(model, every, factors), factors)
    assert sorted(found) == sorted(paths)
    assert min(found.values()) > 0


@pytest.mark.parametrize(("tokens", "got"), [(None, "nothing"), (5, "(5, ")])
def test_a_module_that_sees_a_part_is_refused(flat, tokens, got) -> None:
    """As an expert, which is asked about some tokens, or about none."""
    model, paths = flat
    m, n = model.get_submodule(paths[0]).weight.shape
    model.expert = torch.nn.Linear(n, m)

    def ask(*_: object) -> None:
        if tokens is not None:
            model.expert(torch.ones(tokens, n))

    model.get_input_embeddings().register_forward_hook(ask)
    factors = {"expert": factors_for(model, paths, 0)[paths[0]]}
    with raises(AlignmentError, what="module expert", got=got, do="--base"):
        look(model, texts(), factors)
