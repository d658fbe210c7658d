"""One adapter: what is refused and why, and what an Adapter says of itself."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from adapter_files import lora, peft_config

from hydraopt.adapters import read_adapter
from hydraopt.errors import AdapterFormatError, NumericalError, UsageError
from tests.raising import raises

A, B = "base_model.model.h.0.q.lora_A.weight", "base_model.model.h.0.q.lora_B.weight"
MATRIX = np.ones((2, 2), np.float32)


def read(save, tensors, config=None, **kwargs):
    return read_adapter(save("fr", tensors, config), **kwargs)


def test_a_plain_adapter(save):
    tensors = {**lora(), "base_model.model.head.weight": MATRIX}
    adapter = read(save, tensors, peft_config(revision="abc"))
    module = adapter.modules["h.0.q"]
    assert (module.path, module.kind, module.m, module.n, module.r) == ("h.0.q", "linear", 5, 7, 2)
    assert (module.scale, module.a_shape, module.b_shape) == (3.0, (2, 7), (5, 2))
    assert (adapter.name, adapter.format, adapter.base_model) == ("fr", "peft", "org/tiny")
    assert adapter.revision == "abc"
    assert adapter.numbers == 2 * (5 + 7) + 4
    assert module.numbers == 2 * (5 + 7)
    assert list(adapter.extras) == ["base_model.model.head.weight"]
    assert list(adapter.tensors) == [A, B, "base_model.model.head.weight"]
    assert (adapter.peft_key("h.0.q", "A"), adapter.peft_key("h.0.q", "B")) == (A, B)
    b, a = module.factors()
    np.testing.assert_array_equal(b, 3 * tensors[B])
    np.testing.assert_array_equal(a, tensors[A])
    with raises(UsageError, adapter="fr", got="('h.0.k', 'A')", expected="adapter.modules"):
        adapter.peft_key("h.0.k", "A")


def test_all_zero_and_overcomplete_adapters_are_fine(save):
    zero = {key: 0 * value for key, value in lora(rank=9, m=3, n=4).items()}
    adapter = read(save, zero, peft_config(r=9))
    b, a = adapter.modules["h.0.q"].factors()
    assert (b.shape, a.shape) == ((3, 9), (9, 4))
    assert not b.any()


def without(key):
    return {name: value for name, value in lora().items() if name != key}


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

REFUSED = [
    # tensors, config, the file that is named, the module that is named
    ({}, peft_config(), WEIGHTS, None),
    (lora(), None, CONFIG, None),
    ({"transformer.h.0.q.lora_A.weight": MATRIX}, None, CONFIG, None),
    (without(A), peft_config(), WEIGHTS, "h.0.q"),
    (without(B), peft_config(), WEIGHTS, "h.0.q"),
    ({**lora(), B: np.ones((5, 3), np.float32)}, peft_config(), WEIGHTS, "h.0.q"),
    ({**lora(), B: np.ones((5,), np.float32)}, peft_config(), WEIGHTS, "h.0.q"),
    ({**lora(), B: np.ones((0, 2), np.float32)}, peft_config(), WEIGHTS, "h.0.q"),
    ({**lora(), B: np.ones((5, 2), np.int64)}, peft_config(), WEIGHTS, "h.0.q"),
    ({**lora(), A.replace(".weight", ".other.weight"): MATRIX}, peft_config(), WEIGHTS, "h.0.q"),
    ({**lora(), A.replace("A.weight", "B.bias").replace("h.0", "h.1"): MATRIX}, peft_config(),
     WEIGHTS, None),
    (lora(), peft_config(r=4), WEIGHTS, "h.0.q"),
    (lora(), peft_config(rank_pattern={"q": 1}), WEIGHTS, "h.0.q"),
    ({**lora(), "m.lora_diag": MATRIX}, peft_config(), WEIGHTS, None),
    ({"h\nq.lora_A.weight": MATRIX}, None, WEIGHTS, None),
    ({"h.weight": MATRIX}, peft_config(), WEIGHTS, None),
    ({"h.0.q.hada_w1_a": MATRIX}, None, WEIGHTS, "h.0.q"),
    ({"u.lora_mid.weight": MATRIX, "u.lora_up.weight": MATRIX}, None, WEIGHTS, "u"),
    ({"u.lora_up.weight": MATRIX}, None, WEIGHTS, "u"),
    ({"u.lora_A": MATRIX}, None, WEIGHTS, "u"),
    ({"u.lora_a": MATRIX, "u.lora_b": MATRIX}, {"model": "x"}, CONFIG, None),
    *((lora(), peft_config(**setting), CONFIG, None) for setting in (
        {"r": "2"}, {"r": 0}, {"r": 10**400}, {"lora_alpha": None}, {"lora_alpha": float("inf")},
        {"lora_alpha": 10**400}, {"rank_pattern": [1]}, {"alpha_pattern": {"q": "x"}},
        {"alpha_pattern": {"(": 1}}, {"note": "\ud800"}, {"modules_to_save": 3},
        {"use_rslora": "false"}, {"target_modules": {"q": 1}}, {"lora_dropout": float("nan")},
    )),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "config", "file", "module"), REFUSED)
def test_refusals_say_what_and_where(save, tensors, config, file, module):
    with raises(AdapterFormatError, file=file) as caught:
        read(save, tensors, config)
    assert "fr" in str(caught.value)
    assert caught.value.do
    assert module is None or f"module {module}]" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", "\ud800", "[" * 100_000, '{"x": 1e999}', '{"x": 1' + "0" * 5000 + "}",
     '{"x": ' + "[" * 90 + "]" * 90 + "}"],
    ids=range(8),
)  # fmt: skip
def test_unreadable_config(save, text):
    folder = save("fr", lora())
    (folder / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with raises(AdapterFormatError, file="adapter_config.json"):
        read_adapter(folder)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_file_and_module(save, bad):
    tensors = lora()
    tensors[A][1, 3] = bad
    adapter = read(save, tensors, peft_config())
    for read_it in (adapter.modules["h.0.q"].factors, adapter.check_finite):
        with raises(
            NumericalError,
            module="h.0.q",
            file="adapter_model.safetensors",
            got="base_model.model.h.0.q.lora_A.weight",
            expected="finite numbers",
        ):
            read_it()


def test_overflow_by_the_scale_is_an_error_not_infinity(save):
    tensors = {key: np.full_like(value, 1e30) for key, value in lora().items()}
    adapter = read(save, tensors, peft_config(lora_alpha=1e30))
    with pytest.raises(NumericalError):
        adapter.modules["h.0.q"].factors()


@pytest.mark.parametrize("powers", [(-50, 50), (-50, 30), (-42, 30), (60, -60), (-150, 140)])
def test_factors_of_64_bits_keep_their_product(save, powers):
    """A factor alone may lie beyond float32, where it would become nothing or infinity."""
    rng = np.random.default_rng(0)
    wide = {key: rng.standard_normal(value.shape) for key, value in lora().items()}
    wide = {key: x * 10.0 ** powers[key == A] for key, x in wide.items()}
    module = read(save, wide, peft_config()).modules["h.0.q"]
    b, a = module.factors()
    small, large = (wide[key] for key in sorted(wide, key=lambda key: key == A))
    true = module.scale * small @ large
    unit = 10.0 ** sum(powers)
    got = b.astype(np.float64) @ a.astype(np.float64)
    np.testing.assert_allclose(got / unit, true / unit, atol=1e-5)


def test_a_change_below_float32_is_an_error_not_nothing(save):
    """Zeros are what they are; what was more must not be told as coded without an error."""
    wide = {key: value.astype(np.float64) * 1e-60 for key, value in lora().items()}
    module = read(save, wide, peft_config()).modules["h.0.q"]
    with raises(NumericalError, module="h.0.q", file="adapter_model.safetensors"):
        module.factors()
    zeros = {key: np.zeros_like(x) for key, x in wide.items()}
    assert not read(save, zeros, peft_config()).modules["h.0.q"].factors()[0].any()


def test_nan_in_an_extra_is_found(save):
    head = {"base_model.model.head.weight": np.full((2, 2), np.nan, np.float32)}
    adapter = read(save, {**lora(), **head}, peft_config())
    adapter.modules["h.0.q"].factors()
    with raises(
        NumericalError,
        adapter="fr",
        module="base_model.model.head.weight",
        file="adapter_model.safetensors",
    ):
        adapter.check_finite()


def test_fused_projection_is_one_module_for_each_enabled_part(save):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 7)), rng.standard_normal((10, 2, 1))
    tensors = {A: a.astype(np.float32), B: b.astype(np.float32)}
    adapter = read(save, tensors, peft_config(enable_lora=[True, False, True]))
    assert list(adapter.modules) == ["h.0.q::0", "h.0.q::2"]
    for group, module in enumerate(adapter.modules.values()):
        assert (module.m, module.n, module.r, module.scale) == (5, 7, 2, 3.0)
        assert (module.layout, module.group, module.groups) == ("rows", group, 2)
        truth = 3 * b[5 * group : 5 * group + 5, :, 0] @ a[2 * group : 2 * group + 2]
        np.testing.assert_allclose(np.matmul(*module.factors()), truth, rtol=1e-5, atol=1e-5)
        assert adapter.peft_key(module.path, "B") == B
    with raises(
        AdapterFormatError,
        module="h.0.q",
        file="adapter_model.safetensors",
        got="2 groups, enable_lora None",
        expected="enable_lora",
    ):
        read(save, tensors, peft_config())


def test_which_file_of_a_folder_is_read(save):
    folder = save("fr", lora(), peft_config())
    (folder / "adapter_model.bin").write_bytes(b"never opened")
    adapter = read_adapter(folder)
    assert adapter.source.name == "adapter_model.safetensors"
    notes = [(note.code, note.where) for note in adapter.notes]
    assert ("other_weight_files", "adapter_model.bin") in notes
    assert read_adapter(folder / "adapter_config.json").source == adapter.source
    assert read_adapter(folder / "adapter_model.safetensors").name == "fr"
    odd = save("odd", lora(), peft_config(), file="step 9.safetensors")
    assert (read_adapter(odd).name, read_adapter(odd / "step 9.safetensors").name) == (
        "odd",
        "step 9",
    )
    save("odd", lora(), file="step 8.safetensors")
    with raises(AdapterFormatError, file="odd", got="step 8.safetensors, step 9.safetensors"):
        read_adapter(odd)
    with pytest.raises(AdapterFormatError):
        read_adapter(folder.parent)
    with pytest.raises(AdapterFormatError):
        read_adapter(folder / "nothing")


def test_names_and_bases_given_by_the_caller(save):
    adapter = read(save, lora(), peft_config(), name="dutch", base_model="mine")
    assert (adapter.name, adapter.base_model) == ("dutch", "mine")
    for name in ("", "..", "a/b", "a\\b", " a", "a\n", "x" * 201):
        with pytest.raises(UsageError):
            read(save, lora(), peft_config(), name=name)


def test_settings_that_are_not_understood_are_noted(save):
    adapter = read(save, lora(), peft_config(new_trick=3, off=False, init_lora_weights="pissa"))
    notes = {note.code: note.where for note in adapter.notes}
    assert notes["unknown_settings"] == "new_trick"
    assert "changed_base" in notes
    assert adapter.config["new_trick"] == 3


def test_content_hash_is_of_content_alone(save):
    first = read_adapter(save("fr", lora(), peft_config(modules_to_save=["a", "b"])))
    reversed_ = dict(reversed(lora().items()))
    other = peft_config(
        modules_to_save=["b", "a"], base_model_name_or_path="x", lora_alpha=12, r=4, new=1
    )
    other |= {"rank_pattern": {"q": 2}, "alpha_pattern": {"h.0.q": 6}}
    second = read_adapter(save("de", reversed_, other, file="x.safetensors"))
    expected = first.content_hash()
    assert second.content_hash() == expected
    assert len(expected) == 64

    changed = lora()
    changed[A][0, 0] += 1
    variants = [
        (changed, peft_config(modules_to_save=["a", "b"])),
        (lora(), peft_config(modules_to_save=["a", "b"], lora_alpha=7)),
        (lora(), peft_config(modules_to_save=["a", "b"], use_rslora=True)),
        (lora(), peft_config(modules_to_save=["a"])),
        ({**lora(), "h": MATRIX}, peft_config(modules_to_save=["a", "b"])),
        ({k: v.astype(np.float16) for k, v in lora().items()}, peft_config(modules_to_save=["a"])),
    ]
    hashes = {read(save, *variant).content_hash() for variant in variants}
    assert len(hashes) == len(variants)
    assert expected not in hashes


def test_adapters_can_be_sent_to_another_process(save):
    adapter = read(save, lora(), peft_config())
    copy = pickle.loads(pickle.dumps(adapter))
    assert copy.content_hash() == adapter.content_hash()
    assert copy.peft_key("h.0.q", "A") == A


def test_adapter_config_survives_verbatim(save):
    config = peft_config(target_modules=["q"], odd={"a": [1, None]})
    assert read(save, lora(), config).config == json.loads(json.dumps(config))
