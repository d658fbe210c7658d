"""A trie of texts gives what each text alone gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hydraopt.basemodel import likelihood
from hydraopt.basemodel.encoding import Encoded, collate
from hydraopt.basemodel.likelihood import likelihoods, shares_beginnings
from hydraopt.basemodel.model import hidden_states, logits_of, place
from hydraopt.errors import UsageError
from tests.small_model import tiny_llama

GROUPS = [
    [Encoded((1, 5, 6, 7), (8, 9)), Encoded((1, 5, 6, 7), (8, 10, 11)), Encoded((1, 5), (6, 9))],
    [Encoded((1,), (20, 21, 22, 23))],
    [Encoded((1, 30, 31), (32,)), Encoded((1, 40), (32, 33)), Encoded((1, 30, 31), (32,))],
]


@pytest.fixture
def model(sharp):
    return sharp


@pytest.fixture
def factors(model):
    rng = np.random.default_rng(3)
    paths = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    sizes = {path: model.get_submodule(path) for path in paths}
    return place(
        model,
        {
            path: (
                rng.standard_normal((x.out_features, 2)),
                rng.standard_normal((2, x.in_features)),
            )
            for path, x in sizes.items()
        },
    )


@torch.inference_mode()
def plainly(model, item: Encoded, placed) -> float:
    """The same by a plain forward pass of one text."""
    batch = collate([item])
    with likelihood.attached(model, placed):
        logs = logits_of(model, hidden_states(model, batch), {}).log_softmax(-1)
    return float(logs.gather(1, batch.labels[:, None]).double().sum())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_what_is_shared_is_what_stands_alone(model, factors, implementation) -> None:
    model.set_attn_implementation(implementation)
    wanted = [[plainly(model, item, factors) for item in group] for group in GROUPS]
    for shared in (True, False):
        said = likelihoods(model, GROUPS, factors, shared=shared)
        for mine, right in zip(said, wanted, strict=True):
            assert mine == pytest.approx(right, abs=1e-4)
    without = likelihoods(model, GROUPS, {})
    assert abs(without[0][0] - wanted[0][0]) > 0.01


def test_a_large_group_is_laid_out_in_parts(model, factors, monkeypatch) -> None:
    whole = likelihoods(model, GROUPS, factors)
    monkeypatch.setattr(likelihood, "MOST_NODES", 5)
    parts = likelihoods(model, GROUPS, factors)
    for one, two in zip(whole, parts, strict=True):
        assert one == pytest.approx(two, abs=1e-4)


def test_texts_longer_than_a_window_are_taken_alone(model, factors, monkeypatch) -> None:
    monkeypatch.setattr(model.config, "sliding_window", 4, raising=False)
    seen = []
    real = likelihood.trie_of
    monkeypatch.setattr(likelihood, "trie_of", lambda g, s=True: seen.append(len(g)) or real(g, s))
    likelihoods(model, GROUPS, factors)
    assert seen == [1, 1, 1, 1, 3]


def test_a_model_that_reads_tries_otherwise_is_known(model, monkeypatch) -> None:
    assert shares_beginnings(model, [GROUPS[2]])
    # As a model would that takes no notice of the mask.
    real = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda attention_mask=None, **more: real(**more))
    assert not shares_beginnings(model, [GROUPS[2]])


def test_texts_that_show_nothing_are_no_proof(model, monkeypatch) -> None:
    one = Encoded((1, 5, 6), (7, 8))
    assert shares_beginnings(model, [[one, one]]) is None
    assert shares_beginnings(model, [[one, Encoded((1, 5, 6), (7, 9))]]) is None
    assert shares_beginnings(model, [[one, one], [one, Encoded((1, 5, 6), (9, 8))]])
    monkeypatch.setattr(model.config, "sliding_window", 4, raising=False)
    assert shares_beginnings(model, [GROUPS[0]]) is None


def test_in_bfloat16_rounding_is_no_reason_to_read_texts_alone() -> None:
    deep = tiny_llama(num_hidden_layers=12).bfloat16()
    group = [Encoded((1, *range(5, 25), k), (k, 9, 10)) for k in (30, 40)]
    assert shares_beginnings(deep, [group])


def test_a_text_needs_something_before_it(model) -> None:
    with pytest.raises(UsageError):
        likelihoods(model, [[Encoded((), (1, 2))]], {})
