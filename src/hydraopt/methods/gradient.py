"""HydraOpt by gradient steps, to compare with the exact ones of :mod:`hydraopt.methods.hydra`.

Ceritli et al., EMNLP 2025, arXiv 2507.17706: a shared A', M heads B' and the tasks' choice among
the heads are learned together, by gradient descent on how well they rebuild the adapters. No code
of the authors was found. What the description leaves open is chosen here as follows.

- Error: squared Frobenius, weighted as in ``fit_exact``, over sum_t w_t |dW_t|^2.
- Choice: in the first half of the steps a softmax over heads for each task, whose temperature falls
  geometrically from 1 to 0.03. Then each task keeps its likeliest head, and A' and the heads go on:
  a softmax alone ends in mixtures that no single head replaces.
- Start: A' with random orthonormal rows; head i is the best one for the i-th of M tasks drawn at
  random; logits are normal with deviation 0.01.
- Unknowns are scaled so that entries of A' and of the heads are of size 1; Adam with its usual
  betas, the step falls as a cosine from ``rate`` to 0. No task has a scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hydraopt.linalg.norms import distance
from hydraopt.linalg.shapes import Array, Factors
from hydraopt.methods.checked import checked
from hydraopt.methods.hydra import HydraFit, check_counts
from hydraopt.methods.small import Merged, check_shapes, comparable, rank_for, weights_for

__all__ = ["fit_gradient", "hydra_gradient"]

_COLDEST = 0.03


@checked
def fit_gradient(
    factors: Sequence[Factors],
    heads: int,
    rank: int,
    weights: Sequence[float] | None = None,
    steps: int = 1000,
    rate: float = 0.03,
    seed: int = 0,
) -> HydraFit:
    """Fit A' (R, n), M heads (m, R) and the tasks' heads in ``steps`` of Adam; see the module.

    The fit has scales of 1 and heads that no task chose are left out. history: the objective before
    each step, of the mixtures in the first half, which may rise, and last that of the fit itself. A
    step costs O((m + n) R (M + sum r)); nothing of size m x n is formed. Raises UsageError as
    ``fit_exact``.
    """
    import torch

    m, n = check_shapes(factors)
    check_counts(heads, rank, len(factors))
    w = comparable(weights_for(weights, len(factors), 1.0, positive=True))
    rank = min(rank, n)
    norms = np.array([f.squared_norm() for f in factors])
    total = float(w @ norms)
    if total <= 0:
        return _of_nothing(m, n, rank, len(factors))
    rng = np.random.default_rng(seed)
    first = np.linalg.qr(rng.standard_normal((n, rank)))[0].T
    drawn = rng.permutation(len(factors))[:heads]
    # An entry of A' is about 1/sqrt(n), one of a head about this much.
    size = math.sqrt(total / (float(w.sum()) * m * rank))
    start = np.stack([factors[t].B @ (factors[t].A @ first.T) for t in drawn]) / size
    a = torch.tensor(first * math.sqrt(n), requires_grad=True)
    h = torch.tensor(start, requires_grad=True)
    logits = torch.tensor(0.01 * rng.standard_normal((len(factors), heads)), requires_grad=True)
    loss = _loss(factors, w, total)
    optimiser = torch.optim.Adam([a, h, logits], lr=rate)
    history: list[float] = []
    soft, fixed = steps // 2, None
    for step in range(steps):
        if step == soft:
            fixed = torch.nn.functional.one_hot(logits.detach().argmax(1), heads).to(logits.dtype)
        heat = _COLDEST ** (step / max(soft - 1, 1))
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        mix = torch.softmax(logits / heat, dim=1) if fixed is None else fixed
        value = loss(a / math.sqrt(n), h * size, mix)
        history.append(float(value.detach()))
        value.backward()
        optimiser.step()
    chosen = logits.detach().numpy().argmax(axis=1)
    shared = a.detach().numpy() / math.sqrt(n)
    return _finished(factors, w, shared, h.detach().numpy() * size, chosen, history)


def _loss(factors: Sequence[Factors], w: Array, total: float) -> Callable[[Any, Any, Any], Any]:
    """Return the objective in torch: of A' (R, n), heads (M, m, R) and the mix of heads of each
    task."""
    import torch

    tensors = [(torch.from_numpy(f.B.copy()), torch.from_numpy(f.A.copy())) for f in factors]
    weigh = torch.from_numpy(w)

    def loss(shared: Any, own_heads: Any, mix: Any) -> Any:
        # <dW_t, H_c A'> through (r, R) products, and the heads' own products in (R, R).
        inner = torch.stack(
            [((A @ shared.T)[None] * torch.einsum("mr,cmk->crk", B, own_heads)).sum((1, 2))
             for B, A in tensors]
        )  # fmt: skip
        flat = torch.einsum("cmk,kl->cml", own_heads, shared @ shared.T)
        gram = torch.einsum("cml,dml->cd", flat, own_heads)
        squares = torch.einsum("tc,cd,td->t", mix, gram, mix)
        return (total + (weigh * (squares - 2 * (mix * inner).sum(1))).sum()) / total

    return loss


def _of_nothing(m: int, n: int, rank: int, tasks: int) -> HydraFit:
    """Return the fit of dW's that are all zero: one head of zeros."""
    rows, zeros = np.linalg.qr(np.eye(n, rank))[0].T, (np.zeros((m, rank)),)
    return HydraFit(rows, zeros, np.zeros(tasks, np.int64), np.ones(tasks), (0.0,))


def _finished(
    factors: Sequence[Factors],
    w: Array,
    shared: Array,
    heads: Array,
    chosen: Any,
    history: list[float],
) -> HydraFit:
    """Return orthonormal rows, heads that are in use, and the objective from the residuals."""
    q, r = np.linalg.qr(shared.T)
    names = list(dict.fromkeys(chosen.tolist()))
    kept = tuple(heads[c] @ r.T for c in names)
    labels = np.array([names.index(c) for c in chosen], np.int64)
    left = total = 0.0
    for t, f in enumerate(factors):
        left += w[t] * distance(f, Factors(kept[labels[t]], q.T)) ** 2
        total += w[t] * f.squared_norm()
    fit = (*history, left / total)
    return HydraFit(np.ascontiguousarray(q.T), kept, labels, np.ones(len(factors)), fit)


@checked
def hydra_gradient(
    factors: Sequence[Factors],
    heads: int | None = None,
    rank: int | None = None,
    weights: Sequence[float] | None = None,
    steps: int = 1000,
    rate: float = 0.03,
    seed: int = 0,
) -> Merged:
    """:func:`fit_gradient` as a method: M at most T (default T), R by default the largest rank."""
    check_shapes(factors)
    heads = len(factors) if heads is None else min(heads, len(factors))
    rank = rank_for(rank, factors)
    return fit_gradient(factors, heads, rank, weights, steps, rate, seed).merged()
