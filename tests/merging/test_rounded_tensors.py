"""Errors of coded tensors in dtypes of few bits: of what readers give back, which is rounded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hydraopt import merge, open_bundle, read_adapter, verify_bundle
from hydraopt.codec import OF_THE_WHOLE
from tests.merging.merge_cases import modules_of

HEAD = "base_model.model.score.weight"
EMBEDDING = "base_model.model.model.embed_tokens.weight"
NORM = "base_model.model.norm.ln_tuning_layers.weight"


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def error_of(got: np.ndarray, true: np.ndarray, reference: float | np.ndarray = 0.0) -> float:
    size = float(np.linalg.norm(true.astype(np.float64) - reference))
    return float(np.linalg.norm(got.astype(np.float64) - true)) / size


def given_back(path: Path, name: str, key: str, base: Path | None = None) -> tuple:
    task = open_bundle(path, base)[name]
    return task.extras[key].numpy(), task.tensor_errors[key], task.error


@pytest.mark.parametrize("limit", [2e-2, 3e-3, 1e-3])
def test_a_limit_holds_for_what_is_given_back(make_adapter, tmp_path: Path, limit: float) -> None:
    """Near and below what 16 bits tell apart: rounding adds to the error, or takes it away."""
    head = numbers(200, 64).astype(np.float16)
    one = make_adapter(tmp_path / "a", modules_of(0), extras={HEAD: head})
    merge([one], tmp_path / "b", max_error=limit, workers=1)
    got, stated, modules = given_back(tmp_path / "b", "a", HEAD)
    true = error_of(got, head)
    assert stated == pytest.approx(true, rel=0.03)
    assert 0.9 * limit < math.hypot(modules, math.sqrt(OF_THE_WHOLE) * true) <= limit
    assert verify_bundle(tmp_path / "b", [read_adapter(one)]).ok


def test_the_base_is_added_before_it_is_rounded(make_adapter, tmp_path: Path) -> None:
    """What 16 bits take away is a share of the sum, which is large beside the difference."""
    own = numbers(300, 32, seed=9).astype(np.float16)
    (tmp_path / "base").mkdir()
    save_file({"embed_tokens.weight": own}, tmp_path / "base" / "model.safetensors")
    changed = (own + 0.003 * numbers(300, 32, seed=3)).astype(np.float16)
    one = make_adapter(tmp_path / "a", modules_of(0), extras={EMBEDDING: changed})
    merge([one], tmp_path / "b", max_error=0.1, base=tmp_path / "base", workers=1)
    got, stated, _ = given_back(tmp_path / "b", "a", EMBEDDING, tmp_path / "base")
    assert stated == pytest.approx(error_of(got, changed, own), rel=0.03)
    assert verify_bundle(tmp_path / "b", [read_adapter(one)], tmp_path / "base").ok


def make_norm(folder: Path) -> np.ndarray:
    """An adapter of one tensor in which one means no change."""
    norm = (1 + 0.01 * numbers(400)).astype(np.float16)
    folder.mkdir()
    save_file({NORM: norm}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LN_TUNING", "target_modules": ["norm"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return load_file(folder / "adapter_model.safetensors")[NORM]


@pytest.mark.parametrize("limit", [0.1, 0.02])
def test_ones_are_added_before_it_is_rounded(tmp_path: Path, limit: float) -> None:
    norm = make_norm(tmp_path / "a")
    adapter = read_adapter(tmp_path / "a")
    merge([adapter], tmp_path / "b", max_error=limit, workers=1)
    got, stated, error = given_back(tmp_path / "b", "a", NORM)
    reference = 1.0 if adapter.extra_kinds[NORM] == "tuner_ones" else 0.0
    true = error_of(got, norm, reference)
    assert stated == pytest.approx(true, rel=0.03)
    assert error == pytest.approx(true, rel=2e-3)
    assert true <= limit
    assert verify_bundle(tmp_path / "b", [adapter]).ok
