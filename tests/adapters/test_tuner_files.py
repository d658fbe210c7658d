"""Files of other tuners than LoRA: what is read, and what no reader may let in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import lora, peft_config

from hydraopt import merge
from hydraopt.adapters import Adapter, read_adapter
from hydraopt.errors import AdapterFormatError, NumericalError
from tests.raising import raises

P = "base_model.model.h.0.q."


def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def adalora(**changed: Any) -> dict[str, Any]:
    parts = {"lora_A": normal(2, 7), "lora_B": normal(5, 2), "lora_E": normal(2, 1), **changed}
    return {P + part: value for part, value in parts.items() if value is not None}


def loha(**changed: Any) -> dict[str, Any]:
    parts = {
        "hada_w1_a": normal(5, 2), "hada_w1_b": normal(2, 7),
        "hada_w2_a": normal(5, 2), "hada_w2_b": normal(2, 7), **changed,
    }  # fmt: skip
    return {P + part: value for part, value in parts.items() if value is not None}


def lokr(**changed: Any) -> dict[str, Any]:
    parts = {"lokr_w1": normal(2, 3), "lokr_w2_a": normal(4, 2), "lokr_w2_b": normal(2, 5)}
    return {P + part: x for part, x in {**parts, **changed}.items() if x is not None}


def settings(tuner: str, **changed: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"peft_type": tuner}
    if tuner == "ADALORA":
        own |= {"init_r": 2, "lora_alpha": 6}
    if tuner in ("LOHA", "LOKR"):
        own |= {"r": 2, "alpha": 6}
    return {**own, **changed}


ADALORA, LOHA, LOKR = (settings(x) for x in ("ADALORA", "LOHA", "LOKR"))


def test_adalora_folds_its_values_into_a_and_divides_by_its_first_rank(save: Any) -> None:
    tensors = adalora(lora_A=normal(1, 7), lora_B=normal(5, 1), lora_E=normal(1, 1))
    pattern = {"h.0.q.lora_E": [False, True]}
    adapter = read_adapter(save("x", tensors, settings("ADALORA", rank_pattern=pattern)))
    (module,) = adapter.modules.values()
    b, a = module.factors()
    wanted = (
        6 / (2 + 1e-5) * tensors[P + "lora_B"] @ (tensors[P + "lora_A"] * tensors[P + "lora_E"])
    )
    np.testing.assert_allclose(b @ a, wanted, rtol=1e-5)
    assert adapter.extras == {}


def test_an_alpha_of_adalora_that_is_not_above_zero_is_its_rank(save: Any) -> None:
    adapter = read_adapter(save("x", adalora(), settings("ADALORA", lora_alpha=0)))
    assert adapter.modules["h.0.q"].scale == 2 / (2 + 1e-5)


def test_the_scale_of_a_product_is_in_its_first_low_rank_factor(save: Any) -> None:
    both = read_adapter(save("x", loha(), LOHA))
    assert {k: x.scale for k, x in both.modules.items()} == {"h.0.q::w1": 3, "h.0.q::w2": 1}
    one = read_adapter(save("y", lokr(), LOKR))
    assert {k: x.scale for k, x in one.modules.items()} == {"h.0.q::w2.4x5": 3}
    assert one.extra_kinds == {P + "lokr_w1": "tuner"}


def test_settings_count_in_the_content_of_other_tuners(save: Any) -> None:
    def hash_of(name: str, config: dict[str, Any]) -> str:
        return read_adapter(save(name, loha(), config)).content_hash()

    same = hash_of("x", LOHA)
    assert hash_of("y", {**LOHA, "peft_version": "0.1"}) == same
    assert hash_of("z", {**LOHA, "use_effective_conv2d": True}) != same


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an unknown tuner": (lora(), {"peft_type": "NEWEST"}, "'NEWEST'.*expected LORA, ADALORA"),
    "no text": (lora(), {"peft_type": 3}, "peft_type '3'"),
    "a router": ({"internal_xlora_classifier.x": normal(2, 2)}, {"peft_type": "XLORA"}, "XLORA"),
    "an arrow": (lora(), peft_config(arrow_config={"top_k": 1}), "Arrow"),
    "tensors of LoRA": (lora(), {"peft_type": "IA3"}, "another tuner.*got LORA, expected IA3"),
    "of a third": (
        {P + "ia3_l": normal(5, 1), P + "hra_u": normal(5, 2)}, {"peft_type": "IA3"}, "got HRA",
    ),
    "nothing of its own": ({"head.weight": normal(2, 2)}, {"peft_type": "OFT"}, "no tensor of OFT"),
    "half of a module": ({P + "boft_R": normal(2, 2)}, {"peft_type": "BOFT"}, "also boft_s"),
    "targets of no type": (
        {P + "ia3_l": normal(5, 1)}, {"peft_type": "IA3", "target_modules": 3}, "target_modules",
    ),
    "no E": (adalora(lora_E=None), ADALORA, "also lora_E"),
    "a wide E": (adalora(lora_E=normal(2, 2)), ADALORA, "shapes of an AdaLoRA"),
    "another rank": (adalora(), settings("ADALORA", init_r=3), r"expected A \(3, n\)"),
    "a flat A": (adalora(lora_A=normal(2)), ADALORA, "shapes of an AdaLoRA"),
    "no numbers": (adalora(lora_A=normal(2, 0)), ADALORA, "shapes of an AdaLoRA"),
    "E of integers": (adalora(lora_E=np.ones((2, 1), np.int64)), ADALORA, "not of floating point"),
    "ranks as text": (adalora(), settings("ADALORA", rank_pattern={"h": "x"}), "rank_pattern"),
    "ranks of a wrong length": (
        adalora(), settings("ADALORA", rank_pattern={"h": [True]}), "lists of 2 times",
    ),
    "no init_r": (adalora(), {"peft_type": "ADALORA", "lora_alpha": 1}, "setting r is missing"),
    "two adapters": (
        {**adalora(), P + "lora_A.other": normal(2, 7)}, ADALORA, "claim to be lora_A",
    ),
    "half a factor": (loha(hada_w2_b=None), LOHA, "tensors of a product"),
    "one factor": (loha(hada_w2_a=None, hada_w2_b=None), LOHA, "tensors of a product"),
    "factors that do not fit": (loha(hada_w2_a=normal(4, 2)), LOHA, "tensors of a product"),
    "a factor of another rank": (loha(hada_w1_b=normal(3, 7)), LOHA, "tensors of a product"),
    "one core of two": (loha(hada_t1=normal(2, 2, 3, 3)), LOHA, "tensors of a product"),
    "no alpha": (loha(), settings("LOHA", alpha=None), "setting alpha is missing"),
    "no rank": (loha(), settings("LOHA", r=0), "setting r is missing or wrong"),
    "a factor whole and as a pair": (lokr(lokr_w2=normal(4, 5)), LOKR, "tensors of a product"),
    "no second factor": (lokr(lokr_w2_a=None, lokr_w2_b=None), LOKR, "tensors of a product"),
    "a factor of three axes": (lokr(lokr_w2_a=normal(4, 2, 1)), LOKR, "tensors of a product"),
    "a path with marks": (
        {k.replace("h.0", "h::0"): x for k, x in loha().items()}, LOHA, "name holds '::'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str, save: Any) -> None:
    tensors, config, match = REFUSED[what]
    with pytest.raises(AdapterFormatError, match=match) as caught:
        read_adapter(save("fr", tensors, config))
    assert "fr" in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        (adalora(lora_E=np.full((2, 1), np.nan, np.float32)), ADALORA),
        (loha(hada_w2_a=np.full((5, 2), np.inf, np.float32)), LOHA),
        (lokr(lokr_w2_b=np.full((2, 5), np.nan, np.float32)), LOKR),
    ],
    ids=["AdaLoRA", "LoHa", "LoKr"],
)
def test_numbers_that_are_none_are_named(
    tensors: dict[str, Any], config: dict[str, Any], save: Any, tmp_path: Path
) -> None:
    adapter: Adapter = read_adapter(save("fr", tensors, config))
    with raises(NumericalError, file="adapter_model.safetensors", expected="finite numbers"):
        merge([adapter], tmp_path / "b.hydra.safetensors")
