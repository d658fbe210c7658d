"""Adapters of image models, recognised by the paths of their modules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# By these a PEFT adapter is known as one of an image model. "transformer." alone may be a GPT-2.
_COMPONENTS: Final = (
    ("unet", re.compile(r"(?:unet\.)?(?:down_blocks|mid_block|up_blocks)\.")),
    ("transformer", re.compile(r"(?:transformer\.)?(?:single_)?transformer_blocks\.")),
    ("text_encoder", re.compile(r"text_encoder(?:_\d)?\.")),
)
_KOHYA: Final = re.compile(r"lora_(?:unet|te\d?|transformer)_")
_NUMBERED: Final = re.compile(r"[^:.]+:\d+")
_CROSS_ATTENTION: Final = re.compile(
    r"(?:down|mid|up|input|middle|output)_blocks?[._].*attn2[._](?:processor[._])?to_[kv]\b"
)
_FAMILIES: Final = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    2048: "Stable Diffusion XL",
}
"""Models by the width of the text input of their cross-attention."""


def component_of(paths: Iterable[str]) -> str | None:
    """Return the component that unprefixed paths are of: unet, transformer or text_encoder.

    Return None where no path looks like one of an image model in diffusers' names.
    """
    known = list(paths)
    for component, pattern in _COMPONENTS:
        if any(pattern.match(path) for path in known):
            return component
    return None


def is_numbered(path: str) -> bool:
    """Return whether a module has a number for a name, as in the first LoRA files ("unet:0")."""
    return _NUMBERED.fullmatch(path) is not None


def is_image_model(paths: Iterable[str]) -> bool:
    """Return whether modules of these paths are of an image model, in any format's names."""
    known = list(paths)
    if any(_KOHYA.match(path) or is_numbered(path) for path in known):
        return True
    return component_of(known) is not None


def family_of(widths: Iterable[tuple[str, int]]) -> str | None:
    """Return the family of an image model, or None where the shapes leave it open.

    widths: path and number of inputs of each module.
    """
    inputs = {width for path, width in widths if _CROSS_ATTENTION.search(path)}
    return _FAMILIES.get(inputs.pop()) if len(inputs) == 1 else None
