"""Formats of adapter files: detection by content, reading, reading again, and refusal.

A name of a tensor decides, the first in the file that is typical of any format; earlier lines of
:data:`TYPICAL` win where one name could be of two. Full differences and the like stand beside pairs
of several formats, so they tell a kohya file only where no other name tells a format.

The readers of formats other than PEFT's load when a file is read by them: most are PEFT's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from hydraopt.adapters.model import Format
from hydraopt.adapters.peft import Parsed, joined_half, parse, read_peft
from hydraopt.adapters.tensors import TensorFile, refuse
from hydraopt.adapters.tuners import owner_of, refuse_method, tuner_named
from hydraopt.files import AnyPath


@dataclass(frozen=True)
class Opened:
    """Opened files of an adapter whose format is not yet determined.

    alpha: given by the caller, for files without one.
    """

    file: TensorFile
    config: Mapping[str, Any] | None
    config_file: AnyPath
    alpha: float | None = None

    @property
    def has_peft_config(self) -> bool:
        return self.config is not None and (
            "peft_type" in self.config or "lora_alpha" in self.config
        )

    def need_config(self, settings: str) -> Mapping[str, Any]:
        """Return the config; raise AdapterFormatError if there is none. settings: required keys."""
        if self.config is None:
            given = f"alpha {self.alpha}, which counts for kohya, diffusers and loralib alone"
            refuse(
                "there is no adapter_config.json, which holds rank and alpha",
                self.config_file,
                got=None if self.alpha is None else given,
                do="Put the adapter's config beside its weights; if it is lost, write one with the "
                f"{settings} of the training",
            )
        return self.config


def _as_peft(name: str) -> bool:
    """Return half of a pair as PEFT spells it.

    diffusers' oldest names end like an adapter called "up".
    """
    return parse(name) is not None and not name.endswith((".down.weight", ".up.weight"))


def _kohya_prefix(name: str) -> bool:
    return name.startswith(("lora_unet_", "lora_te"))


def _image_path(name: str) -> bool:
    if name.startswith(("unet.", "text_encoder", "diffusion_model.")):
        return True
    # "transformer." alone is also how GPT-2 starts, "transformer.blocks." MPT.
    own = (".attn1.", ".attn2.") if name.startswith("transformer.") else ()
    return "transformer_blocks." in name or any(part in name for part in own)


def _peft(name: str, opened: Opened) -> bool:
    image = _image_path(name) or _kohya_prefix(name)
    return _as_peft(name) and (opened.has_peft_config or not image)


def _kohya(name: str, opened: Opened) -> bool:
    from hydraopt.adapters.lycoris import has_product

    own = name.endswith((".lora_down.weight", ".lora_up.weight")) or joined_half(name) is not None
    return own or has_product(name) or (_as_peft(name) and _kohya_prefix(name))


def _diffusers(name: str, opened: Opened) -> bool:
    old = name.endswith((".down.weight", ".up.weight")) and "lora" in name
    return old or name.endswith((":down", ":up")) or (_as_peft(name) and _image_path(name))


TYPICAL: Final[Mapping[Format, Callable[[str, Opened], bool]]] = {
    "peft": _peft,
    "mlx": lambda name, opened: name.endswith((".lora_a", ".lora_b")),
    "loralib": lambda name, opened: name.endswith((".lora_A", ".lora_B")),
    "kohya": _kohya,
    "diffusers": _diffusers,
}
"""Functions that recognise a format by a tensor's name."""


def _named_format(name: str, opened: Opened) -> Format | None:
    return next((known for known, typical in TYPICAL.items() if typical(name, opened)), None)


def format_of(opened: Opened) -> Format:
    """Return the file's format; raises AdapterFormatError for a file of none."""
    if tuner_named(opened.config) != "LORA":
        return "peft"  # its tensors may still have names like kohya's
    if "lora_adapter_metadata" in opened.file.metadata:
        return "diffusers"
    for name in opened.file:
        known = _named_format(name, opened)
        if known is not None:
            return known
    from hydraopt.adapters.lycoris import has_other_kind

    if any(map(has_other_kind, opened.file)):
        return "kohya"
    _refuse_file(opened.file, opened.has_peft_config)


def _read_as(known: Format, opened: Opened) -> Parsed:
    """Read a file with the reader of a format."""
    file, config_file = opened.file, opened.config_file
    if known == "peft":
        config = opened.need_config('"r" and "lora_alpha"')
        if tuner_named(config) == "LORA":
            return read_peft(file, config, config_file)
        from hydraopt.adapters.tunerfiles import read_tuner

        return read_tuner(file, config, config_file)
    from hydraopt.adapters import foreign

    if known == "mlx":
        return foreign.read_mlx(file, opened.need_config('"lora_parameters"'), config_file)
    if known == "loralib":
        return foreign.read_loralib(file, opened.alpha, opened.config)
    return foreign.read_image_lora(file, known, opened.alpha)


def read_opened(opened: Opened) -> Parsed:
    """Read a file with its format's reader; raise AdapterFormatError as the reader does."""
    if not opened.file:
        refuse("file holds no tensors", opened.file.path, do="Save the adapter again")
    parsed = _read_as(format_of(opened), opened)
    if parsed.format == "peft" and tuner_named(opened.config) != "LORA":
        return parsed  # by the config, whatever the names are like
    for name, kind in parsed.extras.items():
        # The first typical name decides, and the order of names is not kept everywhere.
        if kind == "saved" and _named_format(name, opened) is not None:
            refuse(
                f"tensor {name[:200]!r} is of another format than the file",
                opened.file.path,
                got=parsed.format,
                do="Save each adapter on its own",
            )
    return parsed


def read_again(file_format: Format, file: TensorFile, config: Mapping[str, Any]) -> Parsed:
    """Parse tensors again that were read before as ``file_format`` and now have ``config``.

    config: as returned by the first reading, either PEFT's own or one made for another format with
        the original's settings under "hydraopt", which may come from anybody.

    Raises AdapterFormatError as the format's reader does.
    """
    origin = _map(config.get("hydraopt"))
    texts = {k: x for k, x in _map(origin.get("metadata")).items() if isinstance(x, str)}
    whole = TensorFile(file.path, file, {**texts, **file.metadata})
    settings = _map(origin.get("config")) if file_format == "mlx" else config
    return _read_as(file_format, Opened(whole, settings, file.path))


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# --- files of no known format ---------------------------------------------------------------------

# Learned words: A1111's, those of SDXL and its successors by encoder, diffusers' by the word.
_WORDS: Final = re.compile(r"emb_params|clip_[lgh]|t5xxl|string_to_param\b.*|<[^.]*>")
_IDLE: Final = re.compile(r"(?:.*\.)?(?:alpha|(?:lora_)?dropout(?:_p)?)")
_NONE: Final = "file holds no LoRA matrices"


def _refuse_file(file: TensorFile, has_lora_config: bool) -> NoReturn:
    """Raise AdapterFormatError that says what the file is, or seems to be by its tensors' names.

    has_lora_config: whether a LoRA's config lies beside it.
    """
    if file.metadata.get("format", "").startswith("hydraopt"):
        do = "Give the adapters themselves; to add to a bundle there is hydraopt add"
        refuse("a bundle is no adapter", file.path, do=do)
    from hydraopt.adapters.lycoris import is_lycoris

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
