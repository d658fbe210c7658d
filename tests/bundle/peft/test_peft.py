"""Exported folders, loaded by PEFT: the outputs are those of the adapter that went into the bundle.

Bundles are coded so finely here that the outputs must agree to single precision or so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import nn

from hydraopt.adapters import read_adapter
from hydraopt.bundle import TaskAdapter, open_bundle
from hydraopt.bundle.peft.folder import export_peft, peft_adapter
from tests.bundle.bundles import bundle_of
from tests.marks import slow

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.v = nn.Linear(width, width), nn.Linear(width, 2 * width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.q(x) + self.v(x).unflatten(-1, (2, -1)).sum(-2)


class Experts(nn.Module):
    """Three experts in one parameter, as mixture-of-experts models hold them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 2 * width, width) / 4)
        self.down = nn.Parameter(torch.randn(3, width, 2 * width) / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up, down = self.up, self.down
        return sum(torch.tanh(x @ up[e].T) @ down[e].T for e in range(3))


class Model(nn.Module):
    """Something of everything that PEFT can wrap; ``encoder.h`` makes "h.0.q" an ambiguous name."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.h = nn.ModuleList(Attention(width) for _ in range(2))
        self.encoder = nn.Module()
        self.encoder.h = nn.ModuleList(Attention(width) for _ in range(1))
        self.conv = nn.Conv1d(width, width, 3, padding=1)
        self.grouped = nn.Conv1d(width, width, 3, padding=1, groups=2)
        self.experts = Experts(width)
        self.mha = nn.MultiheadAttention(width, 2, batch_first=True)
        self.tail = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
        self.head = nn.Linear(width, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for block in (*self.h, *self.encoder.h):
            x = block(x)
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.grouped(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.experts(x) + self.mha(x, x, x, need_weights=False)[0]
        return self.head(x + self.tail(x))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small only lose by threads, and on a busy machine they lose a lot."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


IDS = torch.arange(22).reshape(2, 11) % 11

QV = {"target_modules": ["q", "v"], "r": 3}
CASES: dict[str, dict[str, Any]] = {
    "plain": {**QV, "lora_alpha": 12},
    "rslora": {**QV, "lora_alpha": 5, "use_rslora": True},
    "patterns": {
        **QV,
        "lora_alpha": 6,
        "rank_pattern": {"^h.0.q": 2, "v": 1},
        "alpha_pattern": {"encoder.h.0.q": 9},
    },
    "regex": {"target_modules": r"(h\.\d|encoder\.h\.0)\.q", "r": 2, "lora_alpha": 3},
    "bias": {**QV, "lora_bias": True, "target_modules": ["q"], "lora_alpha": 9},
    "all biases": {**QV, "bias": "all"},
    "dora": {**QV, "use_dora": True, "lora_alpha": 7},
    "saved": {**QV, "modules_to_save": ["head"]},
    "nested saved": {**QV, "modules_to_save": ["tail"]},
    "nested, all biases": {**QV, "bias": "all", "modules_to_save": ["tail"]},
    "embedding": {"target_modules": ["embed", "q"], "r": 4, "lora_alpha": 5},
    "tokens": {**QV, "trainable_token_indices": {"embed": [1, 4, 7]}},
    "conv": {"target_modules": ["conv", "q"], "r": 3, "lora_alpha": 7},
    "grouped conv": {"target_modules": ["grouped", "q"], "r": 4, "lora_alpha": 7},
    "experts": {
        "target_modules": ["q"],
        "target_parameters": ["experts.up", "experts.down"],
        "r": 2,
        "lora_alpha": 5,
    },
    "attention": {"target_modules": ["mha"], "r": 3, "lora_alpha": 5},
    "layers": {**QV, "target_modules": ["q"], "layers_to_transform": [1], "layers_pattern": "h"},
    "excluded": {**QV, "exclude_modules": ["encoder.h.0.q"]},
    "pissa": {**QV, "lora_alpha": 7, "init_lora_weights": "pissa"},
    "olora": {**QV, "lora_alpha": 7, "init_lora_weights": "olora", "rank_pattern": {"v": 2}},
}


def base() -> Model:
    torch.manual_seed(0)
    return Model().eval()


def trained(settings: Mapping[str, Any], seed: int = 1) -> PeftModel:
    """A PEFT model whose trainable numbers are all random."""
    model = get_peft_model(base(), LoraConfig(**settings)).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            # Magnitudes have to stay positive, saved modules near what they were.
            parameter.data = parameter.data * (1 + 0.1 * noise.abs()) + 0.1 * noise * (
                "magnitude" not in name
            )
    return model


def bundled(tmp_path: Path, model: PeftModel, **options: Any) -> TaskAdapter:
    model.save_pretrained(tmp_path / "original")
    adapter = read_adapter(tmp_path / "original", name="task", base_model="org/tiny")
    path = tmp_path / "b.hydra.safetensors"
    bundle_of([adapter], **{"step": 1 << 18, **options}).write(path)
    return open_bundle(path)["task"]


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS)


def loaded(folder: Path) -> PeftModel:
    """The folder on a fresh base; nothing of it is missing or left over."""
    model = PeftModel.from_pretrained(base(), folder).eval()
    weights = peft.load_peft_weights(str(folder), device="cpu")
    result = set_peft_model_state_dict(model, weights)
    assert result.unexpected_keys == []
    own = ("lora_", "modules_to_save.default", "trainable_tokens_delta")
    assert [x for x in result.missing_keys if any(word in x for word in own)] == []
    return model


@pytest.mark.parametrize("case", CASES)
def test_outputs(tmp_path: Path, case: str) -> None:
    settings = CASES[case]
    model = trained(settings)
    expected = outputs(model)
    assert (expected - outputs(base())).abs().max() > 0.05
    task = bundled(tmp_path, model)
    before = json.loads((tmp_path / "original" / "adapter_config.json").read_text())
    changes_base = bool(settings.get("init_lora_weights"))
    for uniform in (False,) if changes_base else (False, True):  # refused; see below
        export_peft(task, tmp_path / str(uniform), uniform_rank=uniform)
        found = outputs(loaded(tmp_path / str(uniform)))
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
        config = json.loads((tmp_path / str(uniform) / "adapter_config.json").read_text())
        assert config["target_modules"] == before["target_modules"]
        if not changes_base:
            assert config["lora_alpha"] == config["r"]
            assert config["use_rslora"] is False
            assert config["rank_pattern"] == config["alpha_pattern"]
        assert not uniform or config["rank_pattern"] == {}


UNLIKE = {"patterns", "saved", "tokens", "experts", "pissa"}
"""Cases that differ in what is stored; the default suite tests only these without loss."""


@pytest.mark.parametrize("case", [x if x in UNLIKE else slow(x) for x in CASES])
def test_lossless_comes_back_byte_for_byte(tmp_path: Path, case: str) -> None:
    model = trained(CASES[case])
    task = bundled(tmp_path, model, lossless=True)
    export_peft(task, tmp_path / "out")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "original" / name).read_bytes()
    # With another rank or type it is exported like any other task.
    if not CASES[case].get("init_lora_weights"):
        export_peft(task, tmp_path / "uniform", uniform_rank=True)
        found = outputs(loaded(tmp_path / "uniform"))
        torch.testing.assert_close(found, outputs(model), rtol=1e-3, atol=1e-3)


def test_patterns_reach_one_module_each(tmp_path: Path) -> None:
    """ "h.0.q" is the end of "encoder.h.0.q", whose rank is another."""
    model = trained({**QV, "rank_pattern": {"^h.0.q": 1, "^encoder.h.0.q": 2}})
    export_peft(bundled(tmp_path, model), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {r"^h\.0\.q": 1, "encoder.h.0.q": 2}
    ranks = {
        name: module.r["default"]
        for name, module in loaded(tmp_path / "out").base_model.model.named_modules()
        if hasattr(module, "r") and name.endswith("q")
    }
    assert ranks == {"h.0.q": 1, "h.1.q": 3, "encoder.h.0.q": 2}


def test_modules_without_parts_load(tmp_path: Path) -> None:
    model = trained(QV)
    with torch.no_grad():
        model.base_model.model.h[0].q.lora_B["default"].weight.zero_()
    task = bundled(tmp_path, model)
    assert task.factors()["h.0.q"].A.shape[0] == 0
    export_peft(task, tmp_path / "out")
    tensors = peft.load_peft_weights(str(tmp_path / "out"), device="cpu")
    assert tensors["base_model.model.h.0.q.lora_A.weight"].shape == (1, 8)
    torch.testing.assert_close(
        outputs(loaded(tmp_path / "out")), outputs(model), rtol=2e-3, atol=2e-3
    )


def test_experts_have_one_rank(tmp_path: Path) -> None:
    """PEFT cannot vary the rank where it wraps parameters, so a module without parts is padded."""
    model = trained(CASES["experts"])
    with torch.no_grad():
        model.base_model.model.h[0].q.lora_B["default"].weight.zero_()
    export_peft(bundled(tmp_path, model), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {}
    found = outputs(loaded(tmp_path / "out"))
    torch.testing.assert_close(found, outputs(model), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "same"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    model = trained(CASES["saved"])
    task = bundled(tmp_path, model)
    task.save_pretrained(tmp_path / "out", dtype=dtype)
    tensors = peft.load_peft_weights(str(tmp_path / "out"), device="cpu")
    wanted = torch.float32 if dtype == "same" else getattr(torch, dtype)
    for key, tensor in tensors.items():
        # What was saved whole keeps its own type.
        assert tensor.dtype == (wanted if "lora_" in key else torch.float32)
    state = task.state_dict(None if dtype == "same" else wanted)
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[key], tensors[key]) for key in tensors)
    tolerance = {"float16": 4e-3, "bfloat16": 3e-2}.get(dtype, 2e-3)
    found = outputs(PeftModel.from_pretrained(base(), tmp_path / "out").eval())
    torch.testing.assert_close(found, outputs(model), rtol=tolerance, atol=tolerance)


def test_bfloat16_rounds_as_torch_does(tmp_path: Path) -> None:
    task = bundled(tmp_path, trained(QV))
    wide, narrow = task.state_dict(torch.float32), task.state_dict(torch.bfloat16)
    for key, tensor in wide.items():
        assert torch.equal(tensor.to(torch.bfloat16), narrow[key])


@pytest.mark.parametrize("power", [-40, 0, 25])
def test_balance_keeps_fp16_alive(tmp_path: Path, power: int) -> None:
    """B far too small (large) for fp16 beside an A far too large (small)."""
    model = trained(QV)
    expected = outputs(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.mul_(2.0**-power)
            if "lora_B" in name:
                parameter.mul_(2.0**power)
    task = bundled(tmp_path, model)
    export_peft(task, tmp_path / "out", dtype="float16")
    found = outputs(loaded(tmp_path / "out"))
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)
    for key, tensor in task.state_dict(torch.float32).items():
        if "lora_A" in key:
            a = tensor.norm(dim=1)
            b = task.state_dict(torch.float32)[key.replace("lora_A", "lora_B")].norm(dim=0)
            assert (a / b).max() <= 2.01
            assert (b / a).max() <= 2.01


def test_what_peft_reads_twice_is_the_same(tmp_path: Path) -> None:
    """Merging the exported adapter again starts from the same products."""
    task = bundled(tmp_path, trained(CASES["patterns"]))
    export_peft(task, tmp_path / "out")
    again = read_adapter(tmp_path / "out")
    for path, factors in task.factors().items():
        b, a = again.modules[path].factors()
        np.testing.assert_allclose(b @ a, factors.B @ factors.A, atol=1e-5)


def test_initialisations_that_change_the_base_keep_rank_and_scale(tmp_path: Path) -> None:
    model = trained(CASES["olora"])
    task = bundled(tmp_path, model)
    config, _ = peft_adapter(task)
    original = json.loads((tmp_path / "original" / "adapter_config.json").read_text())
    for setting in ("r", "lora_alpha", "rank_pattern", "init_lora_weights"):
        assert config[setting] == original[setting]


@pytest.mark.parametrize("start", ["orthogonal", "gaussian"])
def test_other_initialisations_are_left_out(tmp_path: Path, start: str) -> None:
    """PEFT makes the orthogonal one as it loads, for even ranks alone."""
    model = trained({**QV, "r": 4, "init_lora_weights": start})
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_A" in name:
                value[3] = 0
    expected = outputs(model)
    export_peft(bundled(tmp_path, model), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    assert config["r"] == 3
    got = outputs(loaded(tmp_path / "out"))
    torch.testing.assert_close(got, expected, rtol=2e-3, atol=2e-3)
