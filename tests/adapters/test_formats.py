"""The formats: how each is told, that there is no other list, and that a line is enough."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from adapter_files import lora, peft_config

from hydraopt.adapters import formats, read_adapter
from hydraopt.adapters.formats import FORMATS, FileFormat, Opened, format_of, read_again
from hydraopt.adapters.model import Format, LowRankModule
from hydraopt.adapters.peft import Parsed
from hydraopt.adapters.rawtensor import TensorFile
from hydraopt.errors import AdapterFormatError
from tests.raising import raises

PEFT = {"peft_type": "LORA"}


def told(names, config=None, metadata=None):
    file = TensorFile(Path("f.safetensors"), dict.fromkeys(names), metadata or {})
    return format_of(Opened(file, config, Path("adapter_config.json"))).name


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


def test_a_file_of_no_format_is_refused():
    with raises(AdapterFormatError, file="f.safetensors", got="a", expected="lora_A"):
        told(["a", "b", "c"])


@pytest.mark.parametrize(
    ("names", "config", "words"),
    [
        (["x.alpha", "x.oft_R.weight"], None, "called as those of OFT are.*file f.*module x]"),
        (["h.q.oft_R.weight"], PEFT, "called as those of OFT are.*peft_type"),
        (["prompt_embeddings"], None, "called as those of PROMPT_TUNING are.*Put the config"),
        (["x.boft_blocks"], None, "'x.boft_blocks' is of a method that is not known.*file f"),
        (["emb_params"], None, "no LoRA matrices, it seems to be a textual inversion"),
        (["clip_l", "clip_g"], None, "it seems to be a textual inversion"),
        (["<cat>"], None, "it seems to be a textual inversion"),
        (["model.conv.weight", "model.conv.bias", "betas"], None, "seems to be a whole model"),
        (["x.alpha", "y.alpha", "y.dropout_p"], None, "matrices were not saved.*save_pretrained"),
        (["classifier.weight"], PEFT, "matrices were not saved.*save_pretrained"),
        (["a", "b"], None, "Check that it is an adapter's file"),
    ],
)
def test_a_refusal_says_what_the_file_seems_to_be(names, config, words):
    with pytest.raises(AdapterFormatError, match=words) as caught:
        told(names, config)
    advised = "save_pretrained" in words
    assert ("save_pretrained" in str(caught.value)) == advised


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
    assert sorted(x.name for x in FORMATS) == sorted(get_args(Format))


def toy(file: TensorFile) -> Parsed:
    """A format whose pairs are called PATH/in and PATH/out."""
    parsed = Parsed("toy", {"made": True})
    for name in file:
        path, _, side = name.partition("/")
        if side == "in":
            a, b = file[name], file[f"{path}/out"]
            (r, n), m = a.shape, b.shape[0]
            parsed.modules.append(LowRankModule(path, "linear", m, n, r, 2.0, a, b))
    return parsed


def test_a_line_is_enough_for_a_new_format(save, monkeypatch):
    ours = FileFormat(
        "toy",
        lambda name, opened: name.endswith(("/in", "/out")),
        lambda opened: toy(opened.file),
        lambda file, config, origin: toy(file),
    )
    a, b = np.ones((2, 3), np.float32), np.ones((4, 2), np.float32)
    folder = save("x", {"h.0.q/in": a, "h.0.q/out": b}, {})
    with pytest.raises(AdapterFormatError):
        read_adapter(folder)
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, ours))
    adapter = read_adapter(folder)
    assert adapter.format == "toy"
    assert np.array_equal(np.matmul(*adapter.modules["h.0.q"].factors()), 4 * np.ones((4, 3)))
    again = read_again("toy", TensorFile(folder, adapter.tensors), adapter.config)
    assert [module.path for module in again.modules] == ["h.0.q"]
    # Files of the other formats are what they were.
    assert read_adapter(save("y", lora(), peft_config())).format == "peft"
