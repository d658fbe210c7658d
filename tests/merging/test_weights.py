"""What an error counts, by task and by module."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from hydraopt import read_adapters
from hydraopt.codec import measure_named
from hydraopt.errors import UsageError
from hydraopt.merging import MergeSet, align
from hydraopt.merging.weights import importances, module_weights, task_weights
from tests.compress.core_factors import low_rank
from tests.raising import raises

PLAIN = measure_named("frobenius")
HEIGHTS = {"q_proj": 64, "k_proj": 16, "v_proj": 16, "o_proj": 40, "fc": 24}
WIDTHS = {"o_proj": 64}


@pytest.fixture
def pieces(make_adapter, tmp_path: Path) -> MergeSet:
    folders = []
    for seed, name in enumerate(("a", "b")):
        rng = np.random.default_rng(seed)
        modules = {
            f"l.{layer}.attn.{kind}": tuple(
                (1 + 9 * seed) ** 0.5 * x.astype(np.float32)
                for x in low_rank(rng, m, WIDTHS.get(kind, 40), 4)
            )
            for layer in range(2)
            for kind, m in HEIGHTS.items()
        }
        folders.append(make_adapter(tmp_path / name, modules))
    return align(read_adapters(folders), None, lossless=False)


@pytest.fixture
def energies(pieces: MergeSet) -> np.ndarray:
    return np.random.default_rng(5).uniform(0.5, 2, (pieces.contents, len(pieces.modules)))


def of_kind(pieces: MergeSet, weights: np.ndarray, kind: str) -> np.ndarray:
    chosen = [i for i, module in enumerate(pieces.modules) if module.path.endswith(kind)]
    return weights[:, chosen]


def test_without_kinds_all_modules_count_alike(pieces, energies) -> None:
    assert module_weights(pieces, energies, PLAIN, {}) == pytest.approx(1)


def test_shared_keys_and_values_count_for_every_query_head(pieces, energies) -> None:
    measure = dataclasses.replace(PLAIN, kinds={"o_proj": 3.0}, grouped=("k_proj", "v_proj"))
    found = module_weights(pieces, energies, measure, {})
    one = of_kind(pieces, found, "fc")[:, :1]
    for kind, ratio in (("q_proj", 1), ("k_proj", 4), ("v_proj", 4), ("o_proj", 3), ("fc", 1)):
        assert of_kind(pieces, found, kind) / one == pytest.approx(ratio)


def test_weights_of_modules_leave_a_tasks_total_as_it_was(pieces, energies) -> None:
    found = module_weights(pieces, energies, measure_named("bias-aware"), {})
    assert np.ptp(found) > 0
    assert (found * energies).sum(1) == pytest.approx(energies.sum(1))


def test_what_was_seen_goes_before_what_is_expected(pieces, energies) -> None:
    paths = [module.path for module in pieces.modules]
    seen = {"a": {path: 1.0 + i for i, path in enumerate(paths)}}
    found = module_weights(pieces, energies, measure_named("bias-aware"), seen)
    assert found[0] / found[0, 0] == pytest.approx(np.arange(1, len(paths) + 1))
    expected = module_weights(pieces, energies, measure_named("bias-aware"), {})
    assert found[1] == pytest.approx(expected[1])


@pytest.mark.parametrize("relative", [0.0, 0.5, 1.0])
def test_weight_of_a_task_falls_with_the_power_of_its_norm(pieces, energies, relative) -> None:
    scaled = energies * np.array([[1.0], [100.0]])
    measure = dataclasses.replace(PLAIN, relative=relative)
    found = task_weights(scaled, importances(pieces, {}), measure)
    norms = np.sqrt(scaled.sum(1))
    assert found[1] / found[0] == pytest.approx((norms[0] / norms[1]) ** (2 * relative))
    # A price means the same in all of them.
    assert found @ scaled.sum(1) == pytest.approx(2)


def test_a_norm_far_from_the_others_counts_no_further(pieces, energies) -> None:
    def share(factor: float) -> float:
        scaled = energies * np.array([[1.0], [factor]])
        measure = dataclasses.replace(PLAIN, relative=0.5, farthest=2)
        weights = task_weights(scaled, importances(pieces, {}), measure)
        return float(weights[1] * scaled[1].sum() / (weights @ scaled.sum(1)))

    assert share(1.5) > share(1.1)
    assert share(1e6) == pytest.approx(share(1e4), rel=0.01)
    assert share(1e-6) == pytest.approx(1 - share(1e6), rel=0.01)


def test_an_adapter_of_zeros_has_its_importance(pieces) -> None:
    energies = np.zeros((pieces.contents, len(pieces.modules)))
    assert task_weights(energies, importances(pieces, {}), PLAIN) == pytest.approx(1)
    energies[0] = 2
    assert np.isfinite(task_weights(energies, importances(pieces, {}), PLAIN)).all()


@pytest.mark.parametrize("value", ["2", None, True, 0, math.inf, math.nan])
def test_an_importance_is_a_positive_number(pieces, value: object) -> None:
    with raises(UsageError, expected="a number"):
        importances(pieces, {"a": value})  # type: ignore[dict-item]
    assert importances(pieces, {"a": np.float32(2)})[0] == 2


def test_a_sensitivity_is_a_number(pieces, energies) -> None:
    seen = {"a": {module.path: "1" for module in pieces.modules}}
    with raises(UsageError, module="l.0.attn.fc", got="'1'"):
        module_weights(pieces, energies, PLAIN, seen)  # type: ignore[arg-type]
