"""kohya files and diffusers folders in diffusers itself: what the model computes is W + dW."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hydraopt.bundle import TaskAdapter
from hydraopt.export import FORMATS, export_task
from tests.conftest import write_adapter
from tests.export.targets import bundled, products

pytestmark = [
    # What torch, transformers and diffusers deprecate, or warn of, is not ours.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed; it is no dependency of ours"
)


def tiny_pipeline() -> Any:
    """Stable Diffusion at random, without what a LoRA does not change."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=50,
            bos_token_id=0,
            eos_token_id=2,
        )
    )
    scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    return diffusers.StableDiffusionPipeline(
        vae=None,
        text_encoder=text.eval(),
        tokenizer=None,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def layers(pipeline: Any) -> dict[str, Any]:
    """Every layer that a LoRA can change, under its name in the formats."""
    found = {}
    for component in ("unet", "text_encoder"):
        for path, module in getattr(pipeline, component).named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                # transformers 5 no longer has this level, the names of the formats do.
                text = component == "text_encoder" and not path.startswith("text_model.")
                found[f"{component}.{'text_model.' if text else ''}{path}"] = module
    return found


def style(folder: Path, pipeline: Any, **options: Any) -> TaskAdapter:
    """A task on every layer, of ranks 2 to 4 and one alpha."""
    rng = np.random.default_rng(0)
    modules = {}
    for path, layer in layers(pipeline).items():
        m, n, *kernel = layer.weight.shape
        r = 2 + len(path) % 3
        b = rng.standard_normal((m, r, *(1 for _ in kernel))) / 8
        modules[path] = (b, rng.standard_normal((r, n, *kernel)) / 8)
    made = write_adapter(folder / "style", modules, alpha=5)
    return bundled(folder, made, **options)["style"]


def output(pipeline: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    with torch.no_grad():
        hidden = pipeline.text_encoder(torch.tensor([[0, 5, 6, 2]])).last_hidden_state
        return pipeline.unet(noise, 3, hidden).sample


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize(
    ("form", "options"),
    [("kohya", {}), ("diffusers", {}), ("diffusers", {"uniform_rank": True})],
)
def test_images_are_those_of_changed_weights(
    form: str, options: dict[str, Any], lossless: bool, tmp_path: Path
) -> None:
    pipeline = tiny_pipeline()
    task = style(tmp_path, pipeline, lossless=lossless)
    plain = output(pipeline)
    changed = copy.deepcopy(pipeline.unet), copy.deepcopy(pipeline.text_encoder)
    target = tmp_path / f"out{FORMATS[form].suffix}"
    export_task(task, target, format=form, **options)
    pipeline.load_lora_weights(str(target))
    found = output(pipeline)
    pipeline.unet, pipeline.text_encoder = changed
    dense = products(task)
    with torch.no_grad():
        for path, layer in layers(pipeline).items():
            layer.weight += torch.tensor(dense[path]).reshape(layer.weight.shape)
    expected = output(pipeline)
    assert (expected - plain).abs().max() > 1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
