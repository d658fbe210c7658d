"""The candidates of the measure study are what their names say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.quality.damage_measures import CANDIDATES, _blocks, candidates
from hydraopt.basemodel.encoding import encode_row
from hydraopt.basemodel.logits import logits_of
from hydraopt.basemodel.model import attached, hidden_states, place
from hydraopt.basemodel.sensitivity import look, self_written, sensitivities
from hydraopt.linalg.svd import thin
from tests.small_model import INSTRUCTION, ROWS

PATHS = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj")


def adapter(seed: int, scale: float = 0.1):
    rng = np.random.default_rng(seed)
    return {
        path: (scale * rng.standard_normal((32, 3)), rng.standard_normal((3, 32))) for path in PATHS
    }


@pytest.fixture
def texts(trained):
    return [encode_row(trained[1], INSTRUCTION, r["input"], r["output"]) for r in ROWS[:4]]


@pytest.fixture
def seen(trained, texts):
    return {
        "prompts": look(trained[0], texts, adapter(0)),
        "self": look(trained[0], self_written(*trained, adapter(0), 3, seed=1), adapter(0)),
    }


def test_no_damage_is_no_harm(seen) -> None:
    found = candidates(adapter(0), adapter(0), seen)
    assert list(found) == list(CANDIDATES)
    assert found == pytest.approx(dict.fromkeys(CANDIDATES, 0), abs=1e-6)


def test_all_of_it_lost_is_all_of_the_effect(seen) -> None:
    gone = {path: (0 * b, a) for path, (b, a) in adapter(0).items()}
    found = candidates(adapter(0), gone, seen)
    for name in ("frobenius", "frobenius per module", "lost effect", "activations (prompts)"):
        assert found[name] == pytest.approx(1)
    assert found["noise in"] < 1e-6
    assert found["noise out"] < 1e-6


def test_the_blocks_add_up_and_tell_the_sides_apart() -> None:
    b, a = adapter(0)[PATHS[0]]
    rng = np.random.default_rng(3)
    blocks = _blocks(b, a, rng.standard_normal((32, 5)), rng.standard_normal((5, 32)))
    parts = ("diagonal", "within", "into", "out", "beyond")
    assert sum(blocks[key] for key in parts) == pytest.approx(blocks["wrong"])
    x = thin(b, a)
    shaken = _blocks(b, a, x.U * x.s, (x.V + 0.01 * rng.standard_normal(x.V.shape)).T)
    assert shaken["into"] > 10 * shaken["within"]
    assert shaken["out"] + shaken["beyond"] < 1e-9 * shaken["into"]
    cut = _blocks(b, a, x.U[:, :2] * x.s[:2], x.V[:, :2].T)
    assert cut["diagonal"] == pytest.approx(x.s[2] ** 2)
    assert cut["wrong"] == pytest.approx(cut["diagonal"])


def test_fisher_is_the_square_of_what_the_answers_lose(trained, texts, seen) -> None:
    """To first order, the change of each text's log-probability."""
    model, _ = trained
    near = {path: (b * 1.0005, a) for path, (b, a) in adapter(0).items()}
    from hydraopt.basemodel.encoding import collate

    batch = collate(texts)

    def chances(factors) -> torch.Tensor:
        with torch.inference_mode(), attached(model, place(model, factors)):
            logits = logits_of(model, hidden_states(model, batch), {}).double()
        chance = logits.log_softmax(-1).gather(1, batch.labels[:, None])[:, 0]
        return torch.zeros(len(texts)).double().index_add_(0, batch.row, chance)

    moved = chances(near) - chances(adapter(0))
    found = candidates(adapter(0), near, seen)["fisher (prompts)"]
    assert found == pytest.approx(float(moved.square().mean()), rel=0.05)


def test_sensitivity_is_the_expectation_over_noise(seen) -> None:
    """Drawn noise of known size, against the formula, for both sides."""
    what, factors = seen["prompts"], adapter(0)
    found = sensitivities([what], factors)
    rng = np.random.default_rng(5)
    for path, (b, a) in factors.items():
        t = thin(b, a)
        x, g = what.x[path].numpy(), what.g[path].numpy()
        ratios = []
        for _ in range(400):
            into = (t.U * t.s) @ rng.standard_normal(t.V.shape).T
            out = rng.standard_normal(t.U.shape) @ (t.V * t.s).T
            ratios.append(
                [
                    np.mean(((g @ e) * x).sum(1) ** 2) / (e.size and np.sum(e**2))
                    for e in (into, out)
                ]
            )
        assert found[path] == pytest.approx(np.mean(ratios, axis=0).sum(), rel=0.15)
