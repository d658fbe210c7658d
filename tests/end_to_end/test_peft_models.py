"""The whole way: adapters that PEFT made, into a bundle, and back into PEFT on a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import open_bundle, read_adapters, verify_bundle
from hydraopt.bundle import TaskAdapter
from hydraopt.merging import merge, shrink

pytestmark = [
    # What torch, transformers and PEFT deprecate is not ours to answer for.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("de", "en", "fr")


@pytest.fixture(scope="module")
def base() -> Callable[[], Any]:
    """Makes the same tiny Llama each time."""
    pytest.importorskip("peft")
    from tests.small_model import tiny_llama

    return lambda: tiny_llama(hidden_size=64, intermediate_size=96)


@pytest.fixture(scope="module")
def adapters(base: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three adapters, unlike in rank, scale and modules."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapters")
    settings: dict[str, dict[str, Any]] = {
        "de": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
        "en": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
        "fr": {
            "r": 6,
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"down_proj": 3},
            "alpha_pattern": {"v_proj": 20},
        },
    }
    for seed, name in enumerate(TASKS):
        model = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", **settings[name]))
        torch.manual_seed(seed)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.05)
        model.save_pretrained(folder / name)
    return folder


def logits(model: Any) -> np.ndarray:
    import torch

    tokens = torch.arange(3 * 11).reshape(3, 11) * 7 % 97
    with torch.no_grad():
        return model(tokens).logits.double().numpy()


def with_peft(base: Callable[[], Any], folder: Path) -> np.ndarray:
    from peft import PeftModel

    return logits(PeftModel.from_pretrained(base(), folder).eval())


def with_factors(base: Callable[[], Any], task: TaskAdapter) -> np.ndarray:
    """Logits of the base with B A added to its weights, from the decoded factors."""
    import torch

    model = base()
    with torch.no_grad():
        for path, factors in task.factors().items():
            weight = model.get_submodule(path).weight
            weight += torch.from_numpy(factors.B @ factors.A).to(weight.dtype)
    return logits(model)


def test_a_task_of_a_bundle_works_in_peft(base, adapters, tmp_path) -> None:
    result = merge(f"{adapters}/*", tmp_path / "out", size="30%", workers=1)
    assert sorted(result.errors) == list(TASKS)
    assert (tmp_path / "out").stat().st_size <= 0.3 * result.fp16_bytes
    bundle = open_bundle(tmp_path / "out")
    plain = logits(base())
    for name, task in bundle.items():
        task.save_pretrained(tmp_path / name)
        got = with_peft(base, tmp_path / name)
        np.testing.assert_allclose(got, with_factors(base, task), atol=2e-5)
        original = with_peft(base, adapters / name)
        moved = np.linalg.norm(original - plain)
        assert moved > 0.1
        # Nearer to the original than the base is, by about the error that the bundle states.
        assert np.linalg.norm(got - original) < 2 * task.error * moved
        assert np.linalg.norm(got - original) < 0.6 * moved


@pytest.mark.slow
def test_the_state_dict_is_what_is_saved(adapters, tmp_path) -> None:
    from safetensors.torch import load_file

    merge(f"{adapters}/*", tmp_path / "out", error=0.05, workers=1)
    task = open_bundle(tmp_path / "out")["fr"]
    task.save_pretrained(tmp_path / "fr")
    saved = load_file(tmp_path / "fr" / "adapter_model.safetensors")
    state = task.state_dict()
    assert set(saved) == set(state)
    assert all((saved[key] == value).all() for key, value in state.items())


@pytest.mark.slow
def test_verify_and_shrink(adapters, tmp_path) -> None:
    merge(f"{adapters}/*", tmp_path / "out", size="60%", workers=1)
    originals = read_adapters(f"{adapters}/*")
    assert verify_bundle(tmp_path / "out", originals).ok
    result = shrink(tmp_path / "out", tmp_path / "small", size="30%", workers=1)
    direct = merge(f"{adapters}/*", tmp_path / "direct", size="30%", workers=1)
    assert (tmp_path / "small").stat().st_size <= 0.3 * result.fp16_bytes
    assert result.fp16_bytes == direct.fp16_bytes
    assert verify_bundle(tmp_path / "small").ok
    bundle = open_bundle(tmp_path / "small")
    for adapter in originals:
        factors = bundle[adapter.name].factors()
        difference = total = 0.0
        for path, module in adapter.modules.items():
            b, a = (x.astype(np.float64) for x in module.factors())
            difference += float(np.sum((factors[path].B @ factors[path].A - b @ a) ** 2))
            total += float(np.sum((b @ a) ** 2))
        error = (difference / total) ** 0.5
        # Close to what merging the originals to that size gives, and the estimate is honest.
        assert error < 1.15 * direct.errors[adapter.name]
        assert result.errors[adapter.name] == pytest.approx(error, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "most"), [("5%", 0.5), ("2.5%", 0.8), ("50%", 0.01)])
def test_the_example_adapters(tmp_path, size, most) -> None:
    folder = ROOT / "examples" / "adapters"
    if not list(folder.glob("*/adapter_model.safetensors")):
        pytest.skip("examples/adapters holds no adapters")
    result = merge(f"{folder}/*", tmp_path / "out", size=size)
    report = verify_bundle(tmp_path / "out", read_adapters(f"{folder}/*"))
    assert report.ok, report.problems
    limit = float(size.rstrip("%")) / 100 * result.fp16_bytes
    assert 0.99 * limit - 4096 <= result.size <= limit
    assert max(result.errors.values()) < most
    small = shrink(tmp_path / "out", tmp_path / "small", size=int(result.size * 0.7))
    assert verify_bundle(tmp_path / "small").ok
    assert small.size <= 0.7 * result.size
    for name, task in open_bundle(tmp_path / "small").items():
        task.save_pretrained(tmp_path / name)
        assert (tmp_path / name / "adapter_config.json").is_file()
