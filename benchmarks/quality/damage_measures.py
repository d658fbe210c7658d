"""Candidates for a measure of harm: numbers that tell how bad dW~ in place of dW would be.

Letters as in docs/concepts.md: dW = B A, thin SVD dW = U diag(s) V^T, error E = dW - dW~ (always as
two thin factors). Sums run over modules. Data-free candidates see the factors alone; ``self`` ones
see text that the adapted model wrote on its own, ``prompts`` ones a few unlabelled inputs of the
task with the adapted model's answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hydraopt.evaluate.encoding import Encoded, collate
from hydraopt.evaluate.model import attached, hidden_states, logits_of, place
from hydraopt.types import thin

__all__ = ["CANDIDATES", "Seen", "candidates", "look", "self_written"]

Array = NDArray[np.float64]
Factors = Mapping[str, tuple[Any, Any]]

_FREE = (
    "frobenius",
    "frobenius per module",
    "lost effect",
    "noise in",
    "noise out",
    "bias-aware",
)
_SEEING = ("activations", "activations per module", "gradient", "fisher")
CANDIDATES = (*_FREE, *(f"{name} ({text})" for text in ("self", "prompts") for name in _SEEING))


@dataclass(frozen=True)
class Seen:
    """What each module saw on some text. x: (N, n) inputs; g: (N, m) gradients of the answer's
    log-probability in the module's outputs; text: (N,) which text a token belongs to."""

    x: Mapping[str, Tensor]
    g: Mapping[str, Tensor]
    text: Tensor


@contextmanager
def _watched(model: nn.Module, paths: Sequence[str]) -> Iterator[tuple[dict[str, Tensor], ...]]:
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def hook(path: str) -> Any:
        def see(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[path], outputs[path] = args[0].detach(), output
            if output.requires_grad:
                output.retain_grad()

        return see

    handles = [model.get_submodule(p).register_forward_hook(hook(p)) for p in paths]
    try:
        yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()


def look(model: nn.Module, texts: Sequence[Encoded], factors: Factors) -> Seen:
    """Inputs and gradients of every module of the adapted model on the texts, padding left out."""
    placed = place(model, factors)
    batch = collate(list(texts))
    lengths = [len(text) - 1 for text in texts]
    real = torch.zeros(batch.ids.shape, dtype=torch.bool)
    for row, length in enumerate(lengths):
        real[row, :length] = True
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    # One leaf that wants a gradient, so that every later output has one.
    handle = embeddings.register_forward_hook(lambda _m, _a, out: out.requires_grad_())
    try:
        with attached(model, placed), _watched(model, list(factors)) as (inputs, outputs):
            logits = logits_of(model, hidden_states(model, batch))
            chance = logits.log_softmax(-1).gather(1, batch.labels[:, None])
            torch.autograd.backward(chance.sum())
            x = {path: value[real] for path, value in inputs.items()}
            g = {
                path: value.grad[real] for path, value in outputs.items() if value.grad is not None
            }
    finally:
        handle.remove()
    which = torch.arange(len(texts))[:, None].expand(batch.ids.shape)[real]
    return Seen(x, g, which)


@torch.inference_mode()
def self_written(
    model: Any, tokenizer: Any, factors: Factors, count: int, seed: int
) -> list[Encoded]:
    """Text that the adapted model writes from its first token on, sampled, 32 tokens each."""
    torch.manual_seed(seed)
    start = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if start is None else start
    ids = torch.full((count, 1), start)
    with attached(model, place(model, factors)):
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=32,
            min_new_tokens=32,
            do_sample=True,
            top_k=0,
            pad_token_id=start,
        )
    return [Encoded((start,), tuple(row[1:].tolist())) for row in out]


def candidates(original: Factors, other: Factors, seen: Mapping[str, Seen]) -> dict[str, float]:
    """The candidates for ``other`` in place of ``original``, larger is worse; those that need text
    are there for the texts in ``seen``."""
    sums = dict.fromkeys(
        ("wrong", "all", "relative", "inner", "diagonal", "within", "into", "out", "beyond"), 0.0
    )
    for path, (b, a) in original.items():
        pair = other.get(path, (np.zeros((b.shape[0], 0)), np.zeros((0, a.shape[1]))))
        for key, value in _blocks(np.asarray(b, float), np.asarray(a, float), *pair).items():
            sums[key] += value
    total = sums["all"]
    noise = sums["within"] + sums["into"] + sums["out"] / 4 + sums["beyond"] / 4
    found = {
        "frobenius": np.sqrt(sums["wrong"] / total),
        "frobenius per module": np.sqrt(sums["relative"] / len(original)),
        "lost effect": abs(1 - sums["inner"] / total),
        "noise in": np.sqrt(sums["into"] / total),
        "noise out": np.sqrt(sums["out"] / total),
        "bias-aware": (3 * sums["diagonal"] + noise) / total,
    }
    for name, what in seen.items():
        found |= {f"{key} ({name})": value for key, value in _seeing(original, other, what).items()}
    return {key: float(found[key]) for key in CANDIDATES if key in found}


def _blocks(b: Array, a: Array, other_b: Any, other_a: Any) -> dict[str, float]:
    """|E|^2 split by the adapter's own spaces: along its own parts, else inside both spaces, noise
    on the input side (own outputs, foreign inputs), on the output side, and foreign to both."""
    x = thin(b, a)
    left = np.concatenate([b, -np.asarray(other_b, float)], 1)
    right = np.concatenate([a, np.asarray(other_a, float)], 0)
    ul, rv = x.U.T @ left, right @ x.V
    wrong = float(np.sum((left.T @ left) * (right @ right.T)))
    inside = ul @ rv
    own_out = float(np.sum((ul.T @ ul) * (right @ right.T)))
    own_in = float(np.sum((left.T @ left) * (rv @ rv.T)))
    both = float(np.sum(inside**2))
    diagonal = float(np.sum(np.diag(inside) ** 2))
    # <dW, dW~> = |dW|^2 - <dW, E>
    inner = x.energy - float(np.sum(x.s * np.diag(inside)))
    return {
        "wrong": max(wrong, 0.0),
        "all": x.energy,
        "relative": max(wrong, 0.0) / x.energy if x.energy else 0.0,
        "inner": inner,
        "diagonal": diagonal,
        "within": both - diagonal,
        "into": max(own_out - both, 0.0),
        "out": max(own_in - both, 0.0),
        "beyond": max(wrong - own_out - own_in + both, 0.0),
    }


def _seeing(original: Factors, other: Factors, seen: Seen) -> dict[str, float]:
    moved = kept = relative = gradient = 0.0
    slope = torch.zeros(int(seen.text.max()) + 1)
    for path, (b, a) in original.items():
        x, g = seen.x[path], seen.g[path]
        pair = other.get(path, (np.zeros((b.shape[0], 0)), np.zeros((0, a.shape[1]))))
        mine = [torch.from_numpy(np.array(v, np.float32)) for v in (b, a, *pair)]
        effect = (x @ mine[1].T) @ mine[0].T
        error = effect - (x @ mine[3].T) @ mine[2].T
        up, down = float(error.square().sum()), float(effect.square().sum())
        moved, kept, relative = moved + up, kept + down, relative + up / max(down, 1e-30)
        along = (g * error).sum(1)
        gradient += float(along.square().sum())
        slope.index_add_(0, seen.text, along)
    return {
        "activations": np.sqrt(moved / kept),
        "activations per module": np.sqrt(relative / len(original)),
        "gradient": gradient / slope.numel(),
        "fisher": float(slope.square().mean()),
    }
