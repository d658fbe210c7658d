"""Candidates for a measure of harm: numbers that predict the harm of dW~ in place of dW.

Letters as in docs/concepts.md: dW = B A, thin SVD dW = U diag(s) V^T, error E = dW - dW~ (always as
two thin factors). Sums run over modules. Data-free candidates see the factors alone; ``self`` ones
see text that the adapted model wrote on its own, ``prompts`` ones a few unlabelled inputs of the
task with the adapted model's answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hydraopt.basemodel.sensitivity import Activations
from hydraopt.linalg.svd import thin

__all__ = ["CANDIDATES", "FREE", "candidates"]

Array = NDArray[np.float64]
Factors = Mapping[str, tuple[Any, Any]]

FREE = (
    "frobenius",
    "frobenius per module",
    "lost effect",
    "noise in",
    "noise out",
    "bias-aware",
    "absolute frobenius",
    "absolute bias-aware",
)
_SEEING = ("activations", "activations per module", "gradient", "fisher")
CANDIDATES = (*FREE, *(f"{name} ({text})" for text in ("self", "prompts") for name in _SEEING))


def candidates(
    original: Factors, other: Factors, seen: Mapping[str, Activations]
) -> dict[str, float]:
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
        "absolute frobenius": np.sqrt(sums["wrong"]),
        "absolute bias-aware": 3 * sums["diagonal"] + noise,
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


def _seeing(original: Factors, other: Factors, seen: Activations) -> dict[str, float]:
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
