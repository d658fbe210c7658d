"""Log-likelihoods of texts are those of a plain forward pass of each text alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hydraopt.basemodel import likelihoods as likelihoods_module
from hydraopt.basemodel.encoding import Encoded, collate
from hydraopt.basemodel.likelihoods import likelihoods
from hydraopt.basemodel.logits import logits_of
from hydraopt.basemodel.model import attached, hidden_states, place

SHARED = tuple(range(40, 70))
TEXTS = [
    Encoded((1, *SHARED, 7), (8, 9)), Encoded((1, *SHARED, 7), (8, 10, 11)),
    Encoded((1, 5), (6, 9)), Encoded((1,), (20, 21, 22, 23)),
    Encoded((1, 30, 31), (32,)), Encoded((1, 40), (32, 33)), Encoded((1, 30, 31), (32,)),
]  # fmt: skip


def _factors(model, *paths: str):
    rng = np.random.default_rng(3)
    sizes = {path: model.get_submodule(path) for path in paths}
    return {
        path: (rng.standard_normal((x.out_features, 2)), rng.standard_normal((2, x.in_features)))
        for path, x in sizes.items()
    }


@torch.inference_mode()
def _plainly(model, item: Encoded, placed) -> float:
    batch = collate([item])
    with attached(model, placed):
        logs = logits_of(model, hidden_states(model, batch), {}).log_softmax(-1)
    return float(logs.gather(1, batch.labels[:, None]).double().sum())


@pytest.mark.parametrize("paths", [("model.layers.0.self_attn.q_proj",), ("lm_head",)])
def test_they_are_those_of_each_text_alone(sharp, monkeypatch, paths) -> None:
    placed = place(sharp, _factors(sharp, *paths))
    wanted = [_plainly(sharp, item, placed) for item in TEXTS]
    assert likelihoods(sharp, TEXTS, placed) == pytest.approx(wanted, abs=1e-4)
    assert abs(likelihoods(sharp, TEXTS, {})[0] - wanted[0]) > 0.01
    monkeypatch.setattr(likelihoods_module, "_TOKENS", 3)
    assert likelihoods(sharp, TEXTS, placed) == pytest.approx(wanted, abs=1e-4)


def test_progress_counts_batches(sharp) -> None:
    seen: list[tuple[int, int]] = []
    likelihoods(sharp, TEXTS, {}, lambda *x: seen.append(x))
    assert [done for done, _ in seen] == list(range(seen[0][1]))
