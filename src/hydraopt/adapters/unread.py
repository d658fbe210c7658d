"""Error messages for files of no known format, which name the format that they seem to have."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, NoReturn

from hydraopt.adapters.lycoris import is_lycoris
from hydraopt.adapters.rawtensor import TensorFile, refuse
from hydraopt.adapters.tuners import owner_of, refuse_method

__all__ = ["refuse_file"]

# Learned words: A1111's, those of SDXL and its successors by encoder, diffusers' by the word.
_WORDS: Final = re.compile(r"emb_params|clip_[lgh]|t5xxl|string_to_param\b.*|<[^.]*>")
_IDLE: Final = re.compile(r"(?:.*\.)?(?:alpha|(?:lora_)?dropout(?:_p)?)")
_NONE: Final = "file holds no LoRA matrices"


def refuse_file(file: TensorFile, has_lora_config: bool) -> NoReturn:
    """Raise AdapterFormatError that says what the file is, or seems to be by its tensors' names.

    has_lora_config: whether a LoRA's config lies beside it.
    """
    if file.metadata.get("format", "").startswith("hydraopt"):
        do = "Give the adapters themselves; to add to a bundle there is hydraopt add"
        refuse("a bundle is no adapter", file.path, do=do)
    for name in file:
        if owner_of(name) is not None or is_lycoris(name):
            refuse_method(name, file.path)
    what, do = _seeming(file.keys(), has_lora_config)
    refuse(
        what,
        file.path,
        got=f"{len(file)} tensors such as {', '.join(map(repr, list(file)[:2]))}",
        expected="names with lora_A and lora_B, lora_down and lora_up, or lora_a and lora_b",
        do=do,
    )


def _seeming(names: Collection[str], has_lora_config: bool) -> tuple[str, str]:
    """Return the problem with the file and the advice to the user."""
    if all(map(_WORDS.fullmatch, names)):
        return f"{_NONE}, it seems to be a textual inversion", "Leave it out"
    if has_lora_config or all(map(_IDLE.fullmatch, names)):
        return _NONE, "The matrices were not saved; save again with model.save_pretrained"
    if lora := next((name for name in names if "lora" in name.lower()), None):
        what = f"tensors are named as in no LoRA format that can be read, {lora[:200]!r} for one"
        return what, "Convert it to PEFT, kohya or diffusers names with the tool that wrote it"
    if 2 * sum(name.endswith((".weight", ".bias")) for name in names) > len(names):
        what = f"{_NONE}, it seems to be a whole model or a part of one"
        return what, "Give the adapter alone; extract one first if the model was trained whole"
    return _NONE, "Check that it is an adapter's file"
