"""KL between distributions that are nearly the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hydraopt.harm.divergence import divergence, split_likely


def test_each_token_counts_no_less_than_nothing() -> None:
    rng = np.random.default_rng(0)
    want, got = (torch.tensor(rng.standard_normal((64, 50))).log_softmax(-1) for _ in range(2))
    wanted = (want.exp() * (want - got)).sum(-1)
    assert torch.allclose(divergence(want, got), wanted, rtol=1e-12)
    # Sums that rounding has left off one count by the square of that.
    off = divergence(want, want - 1e-6)
    assert ((off > 0) & (off < 1e-12)).all()
    assert torch.allclose(off, torch.full_like(off, 0.5e-12), rtol=1e-3)
    # Tokens that have no chance before, after, or ever.
    some = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    other = torch.tensor([[0.5, 0.5, 0.0]]).log()
    assert divergence(some, other)[0] == pytest.approx(np.log(2))
    assert divergence(other, some)[0] == np.inf
    assert divergence(some.float(), some.float())[0] == 0


def test_what_is_left_beside_the_likeliest_is_told_to_the_last_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn((8, 5000), generator=generator) + 100
    logits[:4, 0] += 60  # of these next to nothing is left
    tokens = logits.topk(200, dim=-1)[1]
    logs, rest, total = split_likely(logits, tokens)
    exact = logits.double().log_softmax(-1)
    assert torch.allclose(total, logits.double().logsumexp(-1, keepdim=True), rtol=0, atol=1e-7)
    assert torch.allclose(logs, exact.gather(1, tokens), rtol=0, atol=1e-7)
    left = exact.exp().sum(-1) - exact.gather(1, tokens).exp().sum(-1)
    assert torch.allclose(rest[4:], left[4:], rtol=1e-5)
    assert ((rest[:4] > 0) & (rest[:4] <= 1e-9)).all()


def test_what_is_no_number_stays_none() -> None:
    logits = torch.tensor([[0.0, torch.nan, 1.0], [0.0, torch.inf, 1.0]])
    logs, rest, total = split_likely(logits, torch.tensor([[0, 2], [0, 2]]))
    assert not any(torch.isfinite(x).any() for x in (logs, rest, total))
