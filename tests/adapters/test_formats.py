"""The formats: how each is told, and what is said of a file of none."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from hydraopt.adapters import Format, TensorFile, read_adapter
from hydraopt.adapters.formats import TYPICAL, Opened, format_of
from hydraopt.errors import AdapterFormatError
from tests.raising import raises

PEFT = {"peft_type": "LORA"}


def told(names, config=None, metadata=None):
    file = TensorFile(Path("f.safetensors"), dict.fromkeys(names), metadata or {})
    return format_of(Opened(file, config, Path("adapter_config.json")))


@pytest.mark.parametrize(
    ("name", "config", "form"),
    [
        ("base_model.model.h.0.q.lora_A.weight", None, "peft"),
        ("h.0.q.lora_B.default.weight", None, "peft"),
        ("transformer.h.0.q.lora_A.weight", None, "peft"),
        ("transformer.transformer_blocks.0.q.lora_A.weight", None, "diffusers"),
        ("transformer.transformer_blocks.0.q.lora_A.weight", PEFT, "peft"),
        ("unet.a.lora_A.weight", None, "diffusers"),
        ("unet.a.lora_A.weight", {"lora_alpha": 2}, "peft"),
        ("unet.a.lora_A.weight", {"model": "x"}, "diffusers"),
        ("unet.a.processor.to_q_lora.down.weight", None, "diffusers"),
        ("0:down", None, "diffusers"),
        ("lora_unet_a.lora_down.weight", None, "kohya"),
        ("lora_te_a.lora_A.weight", None, "kohya"),
        ("lora_unet_a.hada_w1_a", PEFT, "kohya"),
        ("layers.0.q.lora_a", {"model": "x"}, "mlx"),
        ("layers.0.q.lora_A", None, "loralib"),
    ],
)
def test_a_name_tells_the_format(name, config, form):
    assert told(["other.weight", name], config) == form


def test_settings_come_before_names_and_the_first_name_counts():
    kohya, mlx = "lora_unet_a.lora_down.weight", "q.lora_a"
    assert told([kohya], {"peft_type": "LOHA"}) == "peft"
    assert told([kohya], metadata={"lora_adapter_metadata": "{}"}) == "diffusers"
    assert told([kohya], {"peft_type": "LOHA"}, {"lora_adapter_metadata": "{}"}) == "peft"
    assert told([kohya, mlx]) == "kohya"
    assert told([mlx, kohya]) == "mlx"


@pytest.mark.parametrize(
    ("names", "config", "module"),
    [
        (["x.alpha", "x.oft_R.weight"], None, "x"),
        (["h.q.oft_R.weight"], PEFT, "h.q"),
        (["prompt_embeddings"], None, None),
        (["x.boft_blocks"], None, None),
        (["emb_params"], None, None),
        (["model.conv.weight", "model.conv.bias", "betas"], None, None),
        (["x.alpha", "y.alpha", "y.dropout_p"], None, None),
        (["classifier.weight"], PEFT, None),
        (["x.lora_q"], None, None),
        (["a", "b"], None, None),
    ],
)
def test_a_file_of_no_format_is_refused_with_advice(names, config, module):
    with raises(AdapterFormatError, file="f.safetensors") as caught:
        told(names, config)
    assert caught.value.do
    assert (module is not None) == ("module" in str(caught.value).partition("]")[0])


def test_another_method_beside_pairs_is_refused_by_its_name(save):
    pair = {"x.lora_down.weight": np.ones((2, 3)), "x.lora_up.weight": np.ones((4, 2))}
    folder = save("x", {**pair, "y.oft_R.weight": np.ones((2, 6))})
    with raises(
        AdapterFormatError,
        module="y",
        file="adapter_model.safetensors",
        expected="adapter_config.json",
    ):
        read_adapter(folder)


def test_they_are_the_formats_that_bundles_know():
    assert sorted(TYPICAL) == sorted(get_args(Format))
