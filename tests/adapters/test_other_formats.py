"""kohya, diffusers, cloneofsimo, loralib and MLX: orientation, scale, and PEFT-like configs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hydraopt.adapters import ScaleRule, read_adapter, read_adapters
from hydraopt.errors import AdapterFormatError, UsageError
from tests.raising import raises

RNG = np.random.default_rng(3)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def same(module, truth):
    np.testing.assert_allclose(np.matmul(*module.factors()), truth, rtol=1e-5, atol=1e-5)


def config_restates_the_scales(adapter):
    """The PEFT-like config gives every module its rank and scale by PEFT's own rules."""
    rule = ScaleRule.from_config(adapter.config, adapter.source)
    for path, module in adapter.modules.items():
        stored = path.partition("::")[0]
        assert rule.rank(stored) == module.r
        assert rule.scale(stored) == pytest.approx(module.scale)
        assert stored in adapter.config["target_modules"]


def test_kohya(save):
    tensors = {
        "lora_unet_a_to_q.lora_down.weight": normal(4, 6),
        "lora_unet_a_to_q.lora_up.weight": normal(5, 4),
        "lora_unet_a_to_q.alpha": np.array(2.0, np.float32),
        "lora_te_b_conv.lora_down.weight": normal(2, 3, 3, 3),
        "lora_te_b_conv.lora_up.weight": normal(7, 2, 1, 1),
        "lora_te_b_conv.dora_scale": normal(7, 1),
        "lora_unet_c.lora_down.weight": normal(1, 6),
        "lora_unet_c.lora_up.weight": normal(5, 1),
        "lora_unet_c.alpha": np.array([0.5], np.float16),
        "lora_unet_gone.alpha": np.array(1.0, np.float32),
    }
    metadata = {"ss_sd_model_name": "base.safetensors", "ss_tag": "x"}
    folder = save("k", tensors, file="style.safetensors", metadata=metadata)
    adapter = read_adapter(folder / "style.safetensors")
    assert (adapter.format, adapter.name, adapter.base_model) == (
        "kohya",
        "style",
        "base.safetensors",
    )
    linear, conv = adapter.modules["lora_unet_a_to_q"], adapter.modules["lora_te_b_conv"]
    assert (linear.scale, conv.scale, adapter.modules["lora_unet_c"].scale) == (0.5, 1.0, 0.5)
    down, up = (tensors[f"lora_unet_a_to_q.lora_{side}.weight"] for side in ("down", "up"))
    same(linear, 0.5 * up @ down)
    assert (conv.kind, conv.m, conv.n, conv.r) == ("conv", 7, 27, 2)
    same(conv, tensors["lora_te_b_conv.lora_up.weight"][:, :, 0, 0] @ conv.a.numpy().reshape(2, 27))
    assert adapter.extra_kinds == {
        "lora_te_b_conv.dora_scale": "dora_magnitude",
        "lora_unet_gone.alpha": "saved",
    }
    assert adapter.config["hydraopt"] == {"format": "kohya", "metadata": metadata}
    config_restates_the_scales(adapter)


@pytest.mark.parametrize(
    ("stem", "path"),
    [
        ("down_blocks.0.attn1.processor.to_k_lora.{}.weight", "unet.down_blocks.0.attn1.to_k"),
        ("unet.up.attn1.processor.to_out_lora.{}.weight", "unet.up.attn1.to_out.0"),
        ("unet.up.attn1.to_q.lora.{}.weight", "unet.up.attn1.to_q"),
        ("text_encoder.l.0.self_attn.to_out_lora.{}.weight", "text_encoder.l.0.self_attn.out_proj"),
        ("text_encoder.q_proj.lora_linear_layer.{}.weight", "text_encoder.q_proj"),
        ("unet.up.attn1.to_q.lora_{}.weight", "unet.up.attn1.to_q"),
        ("transformer.transformer_blocks.0.q.lora_{}.weight", "transformer.transformer_blocks.0.q"),
        ("transformer.blocks.0.attn1.q.lora_{}.weight", "transformer.blocks.0.attn1.q"),
        ("diffusion_model.blocks.0.q.lora_{}.weight", "diffusion_model.blocks.0.q"),
        ("unet:3:{}", "unet:3"),
    ],
)
@pytest.mark.parametrize("alpha", [None, 8.0])
def test_diffusers_spellings(save, stem, path, alpha):
    sides = ("A", "B") if "lora_{}" in stem else ("down", "up")
    a, b = normal(4, 6), normal(5, 4)
    tensors = {stem.format(sides[0]): a, stem.format(sides[1]): b, "<s1>": normal(6)}
    adapter = read_adapter(save("d", tensors), alpha=alpha)
    assert adapter.format == "diffusers"
    assert list(adapter.modules) == [path]
    same(adapter.modules[path], b @ a * (2 if alpha else 1))
    assert list(adapter.extras) == ["<s1>"]
    assert adapter.peft_key(path, "B") == f"base_model.model.{path}.lora_B.weight"
    config_restates_the_scales(adapter)


def test_diffusers_alphas_in_tensors_and_in_metadata(save):
    tensors = {"unet.q.lora_A.weight": normal(4, 6), "unet.q.lora_B.weight": normal(5, 4)}
    alpha = {"unet.q.alpha": np.array(2, np.int64)}
    adapter = read_adapter(save("tensor", {**tensors, **alpha}))
    assert adapter.modules["unet.q"].scale == 0.5
    assert not adapter.extras
    settings = {"unet.r": 4, "unet.lora_alpha": 16, "unet.use_rslora": True}
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    adapter = read_adapter(save("meta", tensors, metadata=metadata))
    assert adapter.modules["unet.q"].scale == 8.0
    with raises(AdapterFormatError, file="adapter_model.safetensors"):
        read_adapter(save("bad", tensors, metadata={"lora_adapter_metadata": "["}))


@pytest.mark.parametrize(
    ("stem", "alpha"),
    [
        ("text_encoder.q_proj.lora_linear_layer.{}", "text_encoder.q_proj.lora_linear_layer.alpha"),
        ("unet.up.attn1.processor.to_q_lora.{}", "unet.up.attn1.processor.to_q.alpha"),
        ("unet.up.attn1.to_q.lora.{}", "unet.up.attn1.to_q.lora.alpha"),
        ("diffusion_model.q.lora_{}", "diffusion_model.q.alpha"),
    ],
)
def test_diffusers_alphas_stand_beside_their_pair(save, stem, alpha):
    sides = ("A", "B") if "lora_{}" in stem else ("down", "up")
    tensors = {f"{stem.format(x)}.weight": normal(4, 4) for x in sides}
    adapter = read_adapter(save("d", {**tensors, alpha: np.array(2.0, np.float32)}))
    assert [x.scale for x in adapter.modules.values()] == [0.5]
    assert not adapter.extras
    assert not adapter.notes


@pytest.mark.parametrize("alpha", [0, 0.0, float("nan"), float("inf")])
def test_an_alpha_that_scales_nothing_is_refused(save, alpha):
    folder = save("d", {"h.q.lora_A": normal(4, 6), "h.q.lora_B": normal(5, 4)})
    with pytest.raises(UsageError):
        read_adapter(folder, alpha=alpha)
    with pytest.raises(UsageError):
        read_adapters([folder], alpha=alpha)


@pytest.mark.parametrize("name", ["wte", "embed_in"])
def test_an_embedding_is_told_by_its_name(save, name):
    folder = save("d", {f"h.{name}.lora_A": normal(4, 6), f"h.{name}.lora_B": normal(5, 4)})
    assert read_adapter(folder, alpha=8).modules[f"h.{name}"].kind == "embedding"


def test_alphas_that_scale_nothing_are_told(save):
    image = {"unet.q.lora_A.weight": normal(4, 6), "unet.q.lora_B.weight": normal(5, 4)}
    alphas = {"unet.q.alpha": np.array(2.0), "unet.v.alpha": np.array(2.0)}
    adapter = read_adapter(save("d", {**image, **alphas}))
    assert adapter.modules["unet.q"].scale == 0.5
    assert list(adapter.extras) == ["unet.v.alpha"]
    (note,) = adapter.notes
    assert (note.code, note.where) == ("alpha_ignored", "unet.v.alpha")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q"]}
    adapter = read_adapter(save("p", {**image, "unet.q.alpha": np.array(2.0)}, config))
    assert adapter.modules["unet.q"].scale == 2.0
    assert ("alpha_ignored", "unet.q.alpha") in [(x.code, x.where) for x in adapter.notes]


WAN = "blocks.0.self_attn.q.lora_{}.default.weight"


@pytest.mark.parametrize("alpha", [None, 4.0])
def test_a_scale_that_nothing_states_is_no_guess(save, alpha):
    tensors = {WAN.format("A"): normal(4, 6), WAN.format("B"): normal(5, 4)}
    with raises(AdapterFormatError, file="adapter_config.json") as it:
        read_adapter(save("wan", tensors), alpha=alpha)
    assert ("alpha 4.0, which counts for kohya" in str(it.value)) == (alpha is not None)
    adapter = read_adapter(save("wan", tensors, {"r": 4, "lora_alpha": 16}), alpha=alpha)
    assert [module.scale for module in adapter.modules.values()] == [4.0]


@pytest.mark.parametrize("name", ["unet.q.scalar", "unet.q.lora_B.scale_weight"])
def test_what_multiplies_a_module_is_told(save, name):
    image = {"unet.q.lora_A.weight": normal(4, 6), "unet.q.lora_B.weight": normal(5, 4)}
    adapter = read_adapter(save("d", {**image, name: np.array(3.0)}), alpha=4)
    assert list(adapter.extras) == [name]
    (note,) = adapter.notes
    assert (note.code, note.where) == ("multipliers", name)


def test_diffusers_is_known_by_its_metadata(save):
    """The first tensor may be called as one of a language model."""
    tensors = {
        "transformer.x.lora_A.weight": normal(4, 6),
        "transformer.x.lora_B.weight": normal(5, 4),
    }
    settings = {"transformer.r": 4, "transformer.lora_alpha": 8}
    adapter = read_adapter(
        save("d", tensors, metadata={"lora_adapter_metadata": json.dumps(settings)})
    )
    assert adapter.format == "diffusers"
    assert adapter.modules["transformer.x"].scale == 2.0


def test_loralib_takes_alpha_from_the_caller(save):
    tensors = {
        "h.q.lora_A": normal(4, 6),
        "h.q.lora_B": normal(5, 4),
        "h.qkv.lora_A": normal(4, 6),
        "h.qkv.lora_B": normal(10, 2),
        "head.weight": normal(3, 6),
    }
    folder = save("l", tensors)
    adapter = read_adapter(folder)
    assert adapter.format == "loralib"
    assert list(adapter.modules) == ["h.q", "h.qkv::0", "h.qkv::1"]
    notes = {note.code: note.where for note in adapter.notes}
    assert notes == {"alpha_missing": "", "fused_projection": "h.qkv"}
    same(adapter.modules["h.q"], tensors["h.q.lora_B"] @ tensors["h.q.lora_A"])
    assert list(adapter.extras) == ["head.weight"]
    config_restates_the_scales(adapter)
    scaled = read_adapter(folder, alpha=8)
    assert "alpha_missing" not in [note.code for note in scaled.notes]
    assert [module.scale for module in scaled.modules.values()] == [2.0, 4.0, 4.0]
    a, b = tensors["h.qkv.lora_A"], tensors["h.qkv.lora_B"]
    same(scaled.modules["h.qkv::1"], 4 * b[5:] @ a[2:])
    config_restates_the_scales(scaled)


def mlx_config(**parameters):
    return {"model": "org/base", "lora_parameters": {"rank": 4, "scale": 10.0, **parameters}}


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_mlx_is_the_transpose(save, suffix):
    tensors = {"m.q.lora_a": normal(6, 4), "m.q.lora_b": normal(4, 5)}
    tensors |= {"m.embed_tokens.lora_a": normal(9, 4), "m.embed_tokens.lora_b": normal(4, 6)}
    folder = save("x", tensors, mlx_config(alpha=16), file="adapters.safetensors")
    if suffix == "npz":
        (folder / "adapters.safetensors").unlink()
        np.savez(folder / "adapters.npz", **tensors)
    adapter = read_adapter(folder)
    assert (adapter.format, adapter.name, adapter.base_model) == ("mlx", "x", "org/base")
    module = adapter.modules["m.q"]
    assert (module.m, module.n, module.r, module.layout) == (5, 6, 4, "transposed")
    b, a = module.factors()
    assert b.flags.c_contiguous
    assert a.flags.c_contiguous
    x = normal(3, 6)
    y = 10 * (x @ tensors["m.q.lora_a"]) @ tensors["m.q.lora_b"]  # as mlx-lm computes it
    np.testing.assert_allclose(x @ (b @ a).T, y, rtol=1e-4, atol=1e-4)
    assert adapter.modules["m.embed_tokens"].kind == "embedding"
    assert "alpha_ignored" in [note.code for note in adapter.notes]
    assert adapter.config["hydraopt"]["config"] == mlx_config(alpha=16)
    config_restates_the_scales(adapter)


def test_mlx_dora_and_what_is_refused(save):
    tensors = {"m.q.lora_a": normal(6, 4), "m.q.lora_b": normal(4, 5), "m.q.m": normal(5)}
    adapter = read_adapter(save("x", tensors, mlx_config()))
    assert adapter.extra_kinds == {"m.q.m": "dora_magnitude"}
    assert adapter.config["use_dora"] is True
    with raises(
        AdapterFormatError,
        module="m.q",
        file="adapter_model.safetensors",
        got="lora_a",
        expected="lora_a",
    ):
        read_adapter(save("x", tensors, mlx_config(rank=3)))
    experts = {"m.q.lora_a": normal(3, 6, 4), "m.q.lora_b": normal(3, 4, 5)}
    with pytest.raises(AdapterFormatError):
        read_adapter(save("x", experts, mlx_config()))
