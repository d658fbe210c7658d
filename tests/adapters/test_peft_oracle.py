"""PEFT itself as the judge: factors() must give PEFT's own change of the weights."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from hydraopt.adapters import parse, read_adapter

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft")
    from transformers.pytorch_utils import Conv1D


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = torch.nn.Linear(6, 8)
        self.v_proj = torch.nn.Linear(6, 4)
        self.c_attn = Conv1D(10, 6)


class Tiny(torch.nn.Module):
    """One layer of every kind that LoRA goes on."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(11, 6)
        self.layers = torch.nn.ModuleList([Block(), Block()])
        self.conv = torch.nn.Conv2d(3, 5, (2, 3))
        self.point = torch.nn.Conv2d(3, 5, 1)
        self.line = torch.nn.Conv1d(3, 5, 4)
        self.split = torch.nn.Conv2d(4, 6, 3, groups=2)
        self.attn = torch.nn.MultiheadAttention(6, 2)
        self.score = torch.nn.Linear(6, 3)


def train(tmp_path, dtype=None, model=None, **settings):
    """(PEFT model with random factors, the folder it was saved to)."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"r": 2, "lora_alpha": 6, **settings}
        model = peft.get_peft_model(model or Tiny(), peft.LoraConfig(**settings))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad or "lora_" in name:
                    parameter.normal_()
        if dtype is not None:
            model = model.to(dtype)
        model.save_pretrained(tmp_path / "fr")
    return model, tmp_path / "fr"


def layers(model):
    """Wrapped layers by module path."""
    for name, layer in model.named_modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            yield name.removeprefix("base_model.model."), layer


def expected(layer, module):
    """PEFT's change of the weights in our orientation, (m, n)."""
    delta = layer.get_delta_weight("default").detach().float()
    transposed = module.kind == "embedding" or getattr(layer, "fan_in_fan_out", False)
    return (delta.T if transposed else delta.reshape(delta.shape[0], -1)).numpy()


def agree(model, folder, count, rtol=1e-5):
    adapter = read_adapter(folder)
    assert adapter.format == "peft"
    wrapped = dict(layers(model))
    assert len(wrapped) == len(adapter.modules) == count
    for path, layer in wrapped.items():
        module = adapter.modules[path.replace(".base_layer.", ".")]
        b, a = module.factors()
        assert b.shape == (module.m, module.r)
        assert a.shape == (module.r, module.n)
        assert b.dtype == a.dtype == np.float32
        assert b.flags.c_contiguous
        assert a.flags.c_contiguous
        truth = expected(layer, module)
        np.testing.assert_allclose(b @ a, truth, rtol=0, atol=rtol * np.abs(truth).max())
        for side in ("A", "B"):
            assert adapter.peft_key(module.path, side) in adapter.tensors
    used = {t.name for x in adapter.modules.values() for t in (x.a, x.b)}
    assert used | set(adapter.extras) == set(adapter.tensors)
    adapter.check_finite()
    return adapter


LINEAR = ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"target_modules": LINEAR}, 4),
        ({"target_modules": LINEAR, "r": 1}, 4),
        ({"target_modules": LINEAR, "r": 9}, 4),  # r > min(m, n)
        ({"target_modules": LINEAR, "use_rslora": True, "r": 5}, 4),
        ({"target_modules": ["c_attn"], "fan_in_fan_out": True}, 2),
        ({"target_modules": ["embed_tokens"]}, 1),
        ({"target_modules": ["conv", "point", "line"]}, 3),
        ({"target_modules": ["attn"]}, 2),
        (
            {
                "target_modules": [*LINEAR, "embed_tokens", "conv", "attn"],
                "use_rslora": True,
                "rank_pattern": {"layers.0.q_proj": 3, r"layers\.\d+\.v_proj": 1, "q_proj": 4},
                "alpha_pattern": {"^layers.1.v_proj": 7, "oj": 99, "conv": 5, "attn": 2},
            },
            8,
        ),
    ],
)
def test_factors_are_the_delta_of_peft(tmp_path, settings, count):
    adapter = agree(*train(tmp_path, **settings), count)
    assert not adapter.extras or settings["target_modules"] == ["embed_tokens"]


def test_bf16_and_fp16(tmp_path):
    for dtype, name, rtol in ((torch.bfloat16, "BF16", 1e-2), (torch.float16, "F16", 2e-3)):
        model, folder = train(tmp_path, dtype, target_modules=LINEAR)
        adapter = agree(model, folder, 4, rtol)  # PEFT rounds its delta to the dtype
        assert {tensor.dtype for tensor in adapter.tensors.values()} == {name}


def test_lora_bias_is_an_extra_that_still_needs_the_scale(tmp_path):
    adapter = agree(*train(tmp_path, target_modules=LINEAR, lora_bias=True), 4)
    assert set(adapter.extra_kinds.values()) == {"lora_bias"}
    assert len(adapter.extras) == 4


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_base_biases_are_extras(tmp_path, bias):
    adapter = agree(*train(tmp_path, target_modules=LINEAR, bias=bias), 4)
    assert set(adapter.extra_kinds.values()) == {"bias"}
    assert len(adapter.extras) == (12 if bias == "all" else 4)


def test_dora_magnitudes_are_extras_and_noted(tmp_path):
    model, folder = train(tmp_path, target_modules=[*LINEAR, "conv"], use_dora=True)
    adapter = agree(model, folder, 5)
    assert set(adapter.extra_kinds.values()) == {"dora_magnitude"}
    assert "dora" in [note.code for note in adapter.notes]


def test_saved_modules_keep_their_keys(tmp_path):
    settings = {"target_modules": LINEAR, "modules_to_save": ["score"], "bias": "all"}
    adapter = agree(*train(tmp_path, **settings), 4)
    kinds = adapter.extra_kinds
    assert kinds["base_model.model.score.weight"] == kinds["base_model.model.score.bias"] == "saved"
    assert kinds["base_model.model.layers.0.q_proj.base_layer.bias"] == "bias"


def test_trained_token_rows_are_extras(tmp_path):
    rows = {"embed_tokens": [1, 4, 5]}
    adapter = agree(*train(tmp_path, target_modules=LINEAR, trainable_token_indices=rows), 4)
    (key,) = adapter.extras
    assert adapter.extra_kinds[key] == "token_rows"
    assert adapter.extras[key].shape == (3, 6)
    assert adapter.config["trainable_token_indices"] == rows


def test_grouped_convolution_acts_as_the_sum_of_its_groups(tmp_path):
    model, folder = train(tmp_path, target_modules=["split"], r=4)
    adapter = read_adapter(folder)
    assert list(adapter.modules) == ["split::0", "split::1"]
    (_, layer), image = next(layers(model)), torch.randn(2, 4, 7, 7)
    change = layer(image) - layer.base_layer(image)
    kernels = [np.matmul(*module.factors()) for module in adapter.modules.values()]
    kernel = torch.from_numpy(np.concatenate(kernels)).reshape(6, 4, 3, 3)
    torch.testing.assert_close(torch.conv2d(image, kernel), change, rtol=1e-4, atol=1e-4)


class Experts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up_proj = torch.nn.Parameter(torch.randn(3, 6, 8))  # (experts, in, out)
        self.down_proj = torch.nn.Parameter(torch.randn(3, 4, 6))
        self.is_transposed = True


class Mixture(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = torch.nn.ModuleDict({"experts": Experts()})


def test_stacked_experts_are_one_module_each(tmp_path):
    parameters = ["experts.gate_up_proj", "experts.down_proj"]
    model, folder = train(
        tmp_path, None, Mixture(), target_parameters=parameters, target_modules=[]
    )
    adapter = read_adapter(folder)
    assert len(adapter.modules) == 6
    for name, layer in layers(model):
        delta = layer.get_delta_weight("default").detach().numpy()  # (experts, in, out)
        for expert in range(3):
            b, a = adapter.modules[f"{name}::{expert}"].factors()
            np.testing.assert_allclose((b @ a).T, delta[expert], rtol=1e-4, atol=1e-4)
            assert adapter.peft_key(f"{name}::{expert}", "A") in adapter.tensors


def test_adapter_names_and_missing_prefixes_in_keys(tmp_path, save):
    _, folder = train(tmp_path, target_modules=LINEAR)
    plain = read_adapter(folder)
    arrays = {key: tensor.numpy() for key, tensor in plain.tensors.items()}
    for old, new, note in (
        (".weight", ".default.weight", "adapter_name_in_keys"),
        ("base_model.model.", "", "no_prefix"),
        ("base_model.model.", "base_model.model._orig_mod.", None),
    ):
        renamed = {key.replace(old, new): value for key, value in arrays.items()}
        adapter = read_adapter(save("renamed", renamed, plain.config))
        assert list(adapter.modules) == list(plain.modules)
        for path in plain.modules:
            assert adapter.peft_key(path, "B") == plain.peft_key(path, "B")
        assert note is None or note in [x.code for x in adapter.notes]


def test_peft_loads_what_peft_key_spells(tmp_path):
    model, folder = train(tmp_path, target_modules=[*LINEAR, "embed_tokens", "attn"])
    adapter = read_adapter(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = set(peft.get_peft_model_state_dict(model))
    spelled = {adapter.peft_key(path, side) for path in adapter.modules for side in ("A", "B")}
    assert spelled == {name for name in names if parse(name) is not None}
