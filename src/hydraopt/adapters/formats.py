"""Formats of adapter files: detection by content, reading and reading back.

All are in :data:`FORMATS`; a new one is a reader in a file of its own and a line there. A name of a
tensor decides, the first in the file that is typical of any format; earlier lines win where one
name could be of two. Full differences and the like stand beside pairs of several formats, so they
tell a kohya file only where no other name tells a format.

A parser's file loads when a file is read by it: most are PEFT's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hydraopt.adapters.keys import joined_half, parse
from hydraopt.adapters.model import Format
from hydraopt.adapters.peft import Parsed, read_peft
from hydraopt.adapters.rawtensor import TensorFile, refuse
from hydraopt.adapters.tuners import tuner_named
from hydraopt.files.url import AnyPath

__all__ = ["FORMATS", "FileFormat", "Opened", "format_of", "read_again", "read_opened"]


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


Again = Callable[[TensorFile, Mapping[str, Any], Mapping[str, Any]], Parsed]
"""A parser of tensors that were read before: the config since, and the original's settings."""


@dataclass(frozen=True)
class FileFormat:
    """Format of adapter files.

    typical: function that recognises the format by a tensor's name.
    read: the parser.
    again: see :data:`Again`.
    says: function that recognises the format by config or metadata alone, whatever the names.
    """

    name: Format
    typical: Callable[[str, Opened], bool]
    read: Callable[[Opened], Parsed]
    again: Again
    says: Callable[[Opened], bool] | None = None


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


def _other_method(opened: Opened) -> bool:
    """Return whether the tuner is not LoRA; its tensors may still have names like kohya's."""
    return tuner_named(opened.config) != "LORA"


def _read_peft(file: TensorFile, config: Mapping[str, Any], config_file: AnyPath) -> Parsed:
    if tuner_named(config) == "LORA":
        return read_peft(file, config, config_file)
    from hydraopt.adapters.tunerfiles import read_tuner

    return read_tuner(file, config, config_file)


def _read_mlx(file: TensorFile, config: Mapping[str, Any], config_file: AnyPath) -> Parsed:
    from hydraopt.adapters.foreign import read_mlx

    return read_mlx(file, config, config_file)


def _read_loralib(
    file: TensorFile, alpha: float | None, config: Mapping[str, Any] | None
) -> Parsed:
    from hydraopt.adapters.foreign import read_loralib

    return read_loralib(file, alpha, config)


def _read_image(file: TensorFile, file_format: Format, alpha: float | None) -> Parsed:
    from hydraopt.adapters.foreign import read_image_lora

    return read_image_lora(file, file_format, alpha)


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _texts(value: Any) -> dict[str, str]:
    """Return the texts of a value that should map texts; a bundle's author may write anything."""
    items = value.items() if isinstance(value, Mapping) else ()
    return {key: x for key, x in items if isinstance(x, str)}


def _image_again(file_format: Format) -> Again:
    def again(file: TensorFile, config: Mapping[str, Any], origin: Mapping[str, Any]) -> Parsed:
        metadata = {**_texts(origin.get("metadata")), **file.metadata}
        return _read_image(TensorFile(file.path, file, metadata), file_format, None)

    return again


FORMATS: Final = (
    FileFormat(
        "peft",
        _peft,
        lambda opened: _read_peft(
            opened.file, opened.need_config('"r" and "lora_alpha"'), opened.config_file
        ),
        lambda file, config, origin: _read_peft(file, config, file.path),
        says=_other_method,
    ),
    FileFormat(
        "mlx",
        lambda name, opened: name.endswith((".lora_a", ".lora_b")),
        lambda opened: _read_mlx(
            opened.file, opened.need_config('"lora_parameters"'), opened.config_file
        ),
        lambda file, config, origin: _read_mlx(file, _map(origin.get("config")), file.path),
    ),
    FileFormat(
        "loralib",
        lambda name, opened: name.endswith((".lora_A", ".lora_B")),
        lambda opened: _read_loralib(opened.file, opened.alpha, opened.config),
        lambda file, config, origin: _read_loralib(file, None, config),
    ),
    FileFormat(
        "kohya",
        _kohya,
        lambda opened: _read_image(opened.file, "kohya", opened.alpha),
        _image_again("kohya"),
    ),
    FileFormat(
        "diffusers",
        _diffusers,
        lambda opened: _read_image(opened.file, "diffusers", opened.alpha),
        _image_again("diffusers"),
        says=lambda opened: "lora_adapter_metadata" in opened.file.metadata,
    ),
)


def format_of(opened: Opened) -> FileFormat:
    """Return the file's format; raises AdapterFormatError for a file of none."""
    for known in FORMATS:
        if known.says is not None and known.says(opened):
            return known
    for name in opened.file:
        for known in FORMATS:
            if known.typical(name, opened):
                return known
    from hydraopt.adapters.lycoris import has_other_kind

    if any(map(has_other_kind, opened.file)):
        return next(known for known in FORMATS if known.name == "kohya")
    from hydraopt.adapters.unread import refuse_file

    refuse_file(opened.file, opened.has_peft_config)


def read_opened(opened: Opened) -> Parsed:
    """Read a file with its format's reader; raise AdapterFormatError as the reader does."""
    if not opened.file:
        refuse("file holds no tensors", opened.file.path, do="Save the adapter again")
    parsed = format_of(opened).read(opened)
    if parsed.format == "peft" and _other_method(opened):
        return parsed  # by the config, whatever the names are like
    for name, kind in parsed.extras.items():
        if kind != "saved":
            continue
        # The first typical name decides, and the order of names is not kept everywhere.
        if any(row.typical(name, opened) for row in FORMATS):
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
        the original's settings under "hydraopt".

    Raises AdapterFormatError as the format's reader does.
    """
    (known,) = (known for known in FORMATS if known.name == file_format)
    return known.again(file, config, _map(config.get("hydraopt")))
