"""Adapters of the output layer, whose part hidden states do not show; models that scale logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from hydraopt import read_adapters
from hydraopt.errors import AlignmentError, UsageError
from hydraopt.model import (
    AnswerJudge,
    Encoded,
    attached,
    check_logits,
    generate,
    hidden_states,
    logits_of,
    place,
    refit as refit_module,
)
from hydraopt.model.basemodel import of_head
from hydraopt.model.drift import drift_of, reference_of
from hydraopt.model.forward import NextTokens
from hydraopt.model.generation import answered
from hydraopt.model.judge import activations, sensitivities
from hydraopt.model.refit import teacher_of
from hydraopt.model.texts import collate
from tests.basemodel.cases import HEAD, asked_of, divergence, factors_of, texts_of, with_head
from tests.harm.cases import SHORT, coded_of
from tests.raising import raises
from tests.small_model import make_tokenizer, tiny_llama


def test_harm_counts_what_the_output_layer_loses(trained) -> None:
    model, tokenizer = trained
    original = with_head(factors_of(0))
    other = {path: x for path, x in original.items() if path != HEAD}
    asked = asked_of(tokenizer)
    said = answered(model, tokenizer, asked, original, 16)
    reference = reference_of(model, said, original)
    assert drift_of(model, reference, original).kl.max() < 1e-6
    drift = drift_of(model, reference, other)
    written = generate(model, tokenizer, asked, place(model, other), 16)
    differ = sum(written[i] != x.target for i, x in enumerate(said))
    assert drift.changed == differ > 0
    wanted = divergence(model, said, original, other)
    assert drift.kl.mean() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.slow
def test_a_refit_leaves_it_as_it_is_coded(trained, tmp_path, monkeypatch) -> None:
    model, tokenizer = trained
    original, coded = coded_of(tmp_path, "30%")
    path = next(iter(coded))
    # As if this module were the output layer.
    monkeypatch.setattr(refit_module, "of_head", lambda model, mine: {path: mine[path]})
    texts = answered(model, tokenizer, asked_of(tokenizer, range(12)), original, 8)
    made = refit_module.refit(model, teacher_of(original, texts), coded, settings=SHORT)
    assert made
    assert path not in made
    assert of_head(model, with_head(coded)).keys() == {HEAD}
    assert of_head(model, {}) == {}


def test_modules_of_it_are_seen_by_the_tokens_of_answers(
    trained, base, make_adapter, tmp_path
) -> None:
    model, tokenizer = trained
    factors = with_head(factors_of(0))
    (adapter,) = read_adapters([make_adapter(tmp_path / "x", factors)])
    seen = AnswerJudge(base, [adapter], {}).sensitivities()["x"]
    assert seen.keys() == factors.keys()
    texts = texts_of(tokenizer, 5)
    found = sensitivities(model, texts, factors)
    # What an error of the head does at tokens that are no answers is nothing.
    b, a = (np.asarray(x, np.float64) for x in factors[HEAD])
    with torch.no_grad(), attached(model, place(model, factors)):
        batch = collate(texts)
        hidden = hidden_states(model, batch)
        chance = logits_of(model, hidden, {}).softmax(-1)
    slope = (F.one_hot(batch.labels, 259) - chance).double().numpy()
    u, s, vt = np.linalg.svd(b @ a, full_matrices=False)
    u, s, v, x = u[:, :2], s[:2], vt[:2].T, hidden.double().numpy()
    one = np.square(slope @ (u * s)).sum(1) * np.square(x).sum(1) / 32
    two = np.square(x @ (v * s)).sum(1) * np.square(slope).sum(1) / 259
    tokens = sum(len(text) - 1 for text in texts)
    wanted = (one + two).sum() / tokens / np.square(s).sum()
    assert found[HEAD] == pytest.approx(wanted, rel=1e-3)


def test_texts_are_seen_a_few_at_a_time(trained, monkeypatch) -> None:
    model, tokenizer = trained
    factors, texts = factors_of(0), texts_of(tokenizer, 5)
    whole = sensitivities(model, texts, factors)
    monkeypatch.setattr("hydraopt.model.judge.BATCH_TOKENS", 40)
    assert sensitivities(model, texts, factors) == pytest.approx(whole, rel=1e-3)


# --- models ---------------------------------------------------------------------------------------


def nested() -> Gemma3Config:
    """A language model that is a part of another one, which knows of images."""
    text = {**SMALL, **HEADS, "num_key_value_heads": 2, "head_dim": 8}
    image = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    image |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    return Gemma3Config(text_config=text, vision_config=image, mm_tokens_per_image=4)


SMALL = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4}
MODELS = {
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, **HEADS, logits_scaling=8.0)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SMALL, **HEADS, logit_scale=0.25)),
    "nested": lambda: Gemma3ForConditionalGeneration(nested()),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, **HEADS)),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_model(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    check_logits(model)
    text = Encoded((1, 5, 9), (3, 4, 2))
    batch = collate([text])
    with torch.no_grad():
        own = model(input_ids=batch.ids).logits.flatten(0, 1)[batch.where]
        ours = logits_of(model, hidden_states(model, batch), {})
        some = torch.tensor([3, 90, 11])
        few = logits_of(model, hidden_states(model, batch), {}, NextTokens.of(model, some))
    torch.testing.assert_close(ours, own.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(few, ours[:, some], rtol=1e-4, atol=1e-5)


def test_factors_of_it_count_for_some_tokens(trained) -> None:
    model, tokenizer = trained
    texts = texts_of(tokenizer, 4)
    placed, batch = place(model, with_head(factors_of(0))), collate(texts)
    with torch.no_grad(), attached(model, place(model, factors_of(0))):
        hidden = hidden_states(model, batch)
        some = torch.tensor([200, 4, 17])
        few = logits_of(model, hidden, placed, NextTokens.of(model, some))
        whole = logits_of(model, hidden, placed)
    torch.testing.assert_close(few, whole[:, some], rtol=1e-4, atol=1e-4)
    said = answered(model, tokenizer, asked_of(tokenizer), with_head(factors_of(0)), 16)
    original, other = with_head(factors_of(0)), with_head(factors_of(1))
    every = torch.arange(model.config.vocab_size)
    one, same = (
        drift_of(model, reference_of(model, said, original, among), other)
        for among in (None, every)
    )
    np.testing.assert_allclose(one.kl, same.kl, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(one.moved, same.moved, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("how", ["scaled", "headless"])
def test_a_model_of_other_logits_is_refused(how: str, monkeypatch) -> None:
    model = tiny_llama()
    if how == "scaled":
        forward = model.forward

        def scaled(*given, **named):
            made = forward(*given, **named)
            made.logits = 2 * made.logits
            return made

        monkeypatch.setattr(model, "forward", scaled)
    else:
        monkeypatch.setattr(type(model), "get_output_embeddings", lambda self: None)
    with pytest.raises(UsageError):
        check_logits(model)


# --- models that give a module rows and tokens as one dimension:  --------------------------------


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


def test_answers_are_those_of_each_row_alone(flat) -> None:
    model, paths = flat
    tokenizer, asked = make_tokenizer(), prompts(12)
    placed = place(model, factors_for(model, paths, 0))
    wanted = [generate(model, tokenizer, [item], placed, 8)[0] for item in asked]
    assert wanted != generate(model, tokenizer, asked, {}, 8)
    assert generate(model, tokenizer, asked, placed, 8) == wanted


# --- what matters ---------------------------------------------------------------------------------


def texts() -> list[Encoded]:
    rng = np.random.default_rng(2)
    return [Encoded((1, 5, 6 + i)[: 2 + i % 2], tuple(rng.integers(3, 259, 2 + i).tolist()))
            for i in range(4)]  # fmt: skip


def test_modules_are_seen_without_padding(flat) -> None:
    model, paths = flat
    factors = factors_for(model, paths, 0, 0.1)
    every = texts()
    seen = activations(model, every, factors)
    tokens = sum(len(text) - 1 for text in every)
    alone = [activations(model, [text], factors) for text in every]
    for path in paths:
        m, n = model.get_submodule(path).weight.shape
        assert [x.shape for x in seen[path]] == [(tokens, n), (tokens, m)]
        for k in range(2):
            wanted = torch.cat([one[path][k] for one in alone])
            torch.testing.assert_close(seen[path][k], wanted, rtol=1e-3, atol=1e-4)
    found = sensitivities(model, every, factors)
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
        activations(model, texts(), factors)
