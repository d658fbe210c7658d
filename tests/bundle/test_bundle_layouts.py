"""One bundle for each layout and kind gives the adapter that lies beside it, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hydraopt.adapters import read_adapter
from hydraopt.bundle.peft.folder import CONFIG, WEIGHTS, export_peft
from hydraopt.collection.opening import open_bundle, verify_bundle
from tests.bundle.golden.make_layouts import CASES, FOLDER

# What a shared side is multiplied out to may differ in the last bit of a double.
ROUNDED = {"shared"}


def test_every_case_has_its_folder() -> None:
    assert sorted(x.name for x in FOLDER.iterdir()) == sorted(CASES)
    assert sum(x.stat().st_size for x in FOLDER.rglob("*") if x.is_file()) < 100_000


@pytest.mark.parametrize("name", CASES)
def test_it_gives_the_adapter_beside_it(name: str, tmp_path: Path) -> None:
    folder = FOLDER / name
    assert verify_bundle(folder / "bundle.hydra.safetensors").ok
    export_peft(open_bundle(folder / "bundle.hydra.safetensors")[name], tmp_path / "out")
    expected, got = folder / "adapter", tmp_path / "out"
    assert (got / CONFIG).read_bytes() == (expected / CONFIG).read_bytes()
    if name not in ROUNDED:
        assert (got / WEIGHTS).read_bytes() == (expected / WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", CASES)
def test_the_adapter_means_what_the_bundle_says(name: str) -> None:
    """Read by the reader of adapters, which knows nothing of bundles."""
    task = open_bundle(FOLDER / name / "bundle.hydra.safetensors")[name]
    adapter = read_adapter(FOLDER / name / "adapter")
    own = task.factors()
    for path, module in adapter.modules.items():
        b, a = module.factors()
        product = _product(task.entry.format, path, own)
        scale = max(float(np.abs(product).max()), 1e-12)
        assert np.abs(b.astype(np.float64) @ a - product).max() < 0.02 * scale
    # PEFT holds a fused projection as one module.
    assert name == "fused" or set(adapter.modules) == set(own)
    extras = {key: x.numpy() for key, x in adapter.extras.items()}
    for key, x in task.extras.items():
        factor = task.entry.bias_scales.get(key, 1.0)
        np.testing.assert_allclose(extras[key], x.numpy() * factor, rtol=1e-3)


def _product(file_format: str, path: str, own) -> np.ndarray:
    if path in own:
        return own[path].B @ own[path].A
    blocks = [own.get(f"{path}::{slot}") for slot in range(3)]
    m = next(x.B.shape[0] for x in blocks if x)
    n = next(x.A.shape[1] for x in blocks if x)
    return np.vstack([x.B @ x.A if x else np.zeros((m, n)) for x in blocks])


def test_every_layout_and_kind_is_there() -> None:
    modules = [module for case in CASES.values() for module in case.modules]
    assert {x.layout for x in modules} == {"plain", "rows", "experts", "factor"}
    assert {x.kind for x in modules} == {"linear", "embedding", "conv"}
    configs = [json.loads((FOLDER / x / "adapter" / CONFIG).read_text()) for x in CASES]
    assert {x["peft_type"] for x in configs} == {"LORA", "ADALORA", "LOHA", "LOKR", "IA3"}
