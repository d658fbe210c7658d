"""Cards of image LoRAs: base model, command and Python lines that load them, and no answers."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from hydraopt.bundle import open_bundle
from hydraopt.cli.main import cli
from hydraopt.export import export_task
from hydraopt.merging import merge
from hydraopt.report.builder import collect
from hydraopt.report.card import bundle_card
from tests.conftest import write_adapter

BASE = "org/painter"
UNET = "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


def image_bundle(
    folder: Path, form: str, *, base: str | None = None, width: int = 768, lossless: bool = True
) -> Path:
    """A bundle of two image LoRAs. form: "kohya", "diffusers" or "peft"."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        down, up = rng.standard_normal((2, width)), rng.standard_normal((320, 2))
        down, up = down.astype(np.float32), up.astype(np.float32)
        target = folder / "loras" / f"{name}.safetensors"
        target.parent.mkdir(exist_ok=True)
        metadata = {"ss_sd_model_name": base} if base else None
        if form == "peft":
            write_adapter(folder / "loras" / name, {UNET: (up, down)}, base=base or "")
            continue
        stem = UNET.replace(".", "_").replace("unet", "lora_unet") if form == "kohya" else UNET
        ends = ("lora_down", "lora_up") if form == "kohya" else ("lora_A", "lora_B")
        tensors: dict[str, Any] = {
            f"{stem}.{end}.weight": x for end, x in zip(ends, (down, up), strict=True)
        }
        save_file(tensors, target, metadata)
    bundle = folder / "b.hydra.safetensors"
    limit: dict[str, Any] = {"lossless": True} if lossless else {"size": "50%"}
    merge(folder / "loras" / "*", bundle, **limit, workers=1)
    return bundle


def blocks(card: str) -> dict[str, str]:
    """Code of a card by its language."""
    return dict(re.findall(r"```(\w+)\n(.*?)\n```", card, flags=re.DOTALL))


def calls(code: str) -> dict[str, Any]:
    """Argument of each call in lines of Python, by the name of the method."""
    return {
        x.func.attr: ast.literal_eval(x.args[0])
        for x in ast.walk(ast.parse(code))
        if isinstance(x, ast.Call) and isinstance(x.func, ast.Attribute)
    }


@pytest.mark.parametrize("form", ["kohya", "diffusers", "peft"])
def test_the_commands_of_a_card_give_what_its_python_loads(form: str, tmp_path: Path) -> None:
    bundle = image_bundle(tmp_path, form, base=BASE)
    code = blocks(bundle_card(collect(bundle)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = CliRunner().invoke(cli, shlex.split(code["text"])[1:])
    assert done.exit_code == 0, done.output
    loaded = calls(code["python"])
    assert loaded["from_pretrained"] == BASE
    made = tmp_path / loaded["load_lora_weights"]
    assert made.is_file() or (made / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize("lossless", [False, True])
def test_cards_of_image_models_say_nothing_of_answers(lossless: bool, tmp_path: Path) -> None:
    bundle = image_bundle(tmp_path, "diffusers", lossless=lossless)
    export_task(open_bundle(bundle)["cat"], tmp_path / "out", format="diffusers")
    own = (tmp_path / "out" / "README.md").read_text()
    assert calls(blocks(own)["python"])["load_lora_weights"] == "cat"
    for card in (own, bundle_card(collect(bundle))):
        assert "answer" not in card
        assert "prompt" not in card
        assert "eval" not in card


@pytest.mark.parametrize("width", [*WIDTHS, 500])
def test_the_family_of_an_unnamed_base_is_told_by_its_shapes(width: int, tmp_path: Path) -> None:
    card = bundle_card(collect(image_bundle(tmp_path, "kohya", width=width)))
    assert [family for family in WIDTHS.values() if family in card] == (
        [WIDTHS[width]] if width in WIDTHS else []
    )
    assert "base_model:" not in card


def test_a_base_that_is_one_file_is_loaded_as_one(tmp_path: Path) -> None:
    bundle = image_bundle(tmp_path, "kohya", base="painter.safetensors")
    loaded = calls(blocks(bundle_card(collect(bundle)))["python"])
    assert loaded["from_single_file"] == "painter.safetensors"


def test_a_language_model_has_no_pipeline(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", {"transformer.h.0.q": (np.ones((8, 1)), np.ones((1, 8)))})
    merge([tmp_path / "a"], tmp_path / "b", lossless=True, workers=1)
    assert set(blocks(bundle_card(collect(tmp_path / "b")))) == {"text"}
