"""Factors, prompts, texts and an exact KL divergence for tests with a tiny base model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from hydraopt.model import Encoded, attached, hidden_states, logits_of, place
from hydraopt.model.basemodel import AnyFactors
from hydraopt.model.texts import collate

PATHS = [f"model.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in "qo"]

HEAD = "lm_head"


def factors_of(seed: int, size: float = 0.3) -> dict[str, AnyFactors]:
    rng = np.random.default_rng(seed)
    return {
        path: (
            size * rng.standard_normal((32, 3)).astype(np.float32),
            rng.standard_normal((3, 32)).astype(np.float32),
        )
        for path in PATHS
    }


def with_head(factors, size: float = 0.3, seed: int = 7):
    rng = np.random.default_rng(seed)
    head = size * rng.standard_normal((259, 2)), rng.standard_normal((2, 32))
    return {**factors, HEAD: tuple(x.astype(np.float32) for x in head)}


def asked_of(tokenizer, numbers: Iterable[int] = range(24)) -> list[Encoded]:
    """Prompts without answers, of which the model has learned some."""
    return [Encoded((1, *tokenizer(f"Spell.\n{i}\n=>")["input_ids"]), ()) for i in numbers]


def texts_of(tokenizer, count: int = 10) -> list[Encoded]:
    rows = []
    for i in range(count):
        ids = tokenizer(f"Spell.\n{i}\n=> number {i}")["input_ids"]
        rows.append(Encoded((1, *ids[:6]), tuple(ids[6:])))
    return rows


@torch.no_grad()
def divergence(model, texts, original, coded) -> float:
    """KL over whole distributions, without the module's own shortcuts."""
    batch = collate(texts)
    with attached(model, place(model, original)):
        want = logits_of(model, hidden_states(model, batch), {}).log_softmax(-1)
    with attached(model, place(model, coded)):
        got = logits_of(model, hidden_states(model, batch), {}).log_softmax(-1)
    return float((want.exp() * (want - got)).sum(-1).mean())
