"""Grammar of PEFT's tensor names, and its inverse.

    base_model.model. PATH . ROLE [. ADAPTER] [.weight]

ROLE is lora_A, lora_B, lora_embedding_A, lora_embedding_B or lora_magnitude_vector; ADAPTER
("default") was left inside by training loops that saved the state dict themselves.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, Literal, NamedTuple

from hydraopt.adapters.model import ExtraKind

__all__ = [
    "PREFIX",
    "PeftKey",
    "extra_kind",
    "joined_half",
    "names_adapter",
    "parse",
    "peft_name",
    "saved_names",
    "spell",
]

PREFIX: Final = "base_model.model."

Half = Literal["A", "B"]

# Wrappers of torch.compile, FSDP and DDP that end up in saved names.
_WRAPPERS: Final = re.compile(r"(?:^module\.|\b_orig_mod\.|\b_fsdp_wrapped_module\.)")
_MATRIX: Final = re.compile(r"(.+)\.lora_([AB])(?:\.([^.]+))?\.weight")
_EMBEDDING: Final = re.compile(r"(.+)\.lora_embedding_([AB])(?:\.([^.]+))?")
# What PEFT's wrapper of a module to save puts in a name: what was trained, then the adapter's name;
# and what was there before.
_SAVED: Final = ".modules_to_save."
_BEFORE: Final = ".original_module."
_PARTS: Final = (".lora_", ".trainable_tokens_delta.")
_JOINED: Final = re.compile(r"(?P<path>[^.]+)_lora_(?P<half>down|up)\.weight")
# An adapter's own name ("default") inside a tensor's, as training loops leave it that save the
# model's state themselves.
_KEPT: Final = re.compile(r"\.modules_to_save\.[^.]+\.")
_NAMED: Final = (
    (re.compile(r"\.lora_magnitude_vector\..+$"), ".lora_magnitude_vector"),
    (re.compile(r"\.lora_B\.[^.]+\.bias$"), ".lora_B.bias"),
    (re.compile(r"\.trainable_tokens_delta\.[^.]+$"), ".trainable_tokens_delta"),
)
_UNKNOWN: Final = re.compile(r"\.(?:lora_(?!magnitude_vector)\w+|vera_\w+|ranknum)\b")


class PeftKey(NamedTuple):
    """Parsed tensor name of one half of a low-rank pair.

    inner: the path as the name has it, which may pass through "base_layer" of nested wrappers.
    half, embedding: which tensor it is.  adapter: adapter name inside, or None.
    prefixed: whether the name started with "base_model.model.".
    """

    inner: str
    half: Half
    embedding: bool
    adapter: str | None
    prefixed: bool

    @property
    def path(self) -> str:
        """Module path in the base model.

        A wrapper inside a wrapper shows as "base_layer" in the middle (out_proj of a multi-head
        attention) and is dropped; at the end it tells apart two pairs on one module and stays.
        """
        return self.inner.replace(".base_layer.", ".")

    @property
    def settings_path(self) -> str:
        """Path that PEFT matches rank and alpha patterns with: the outermost wrapper's."""
        return self.inner.split(".base_layer")[0]


def joined_half(key: str) -> re.Match[str] | None:
    """Match half of a pair as some trainers write kohya's names, PATH_lora_down.weight.

    The path, group ``path``, has no dots; group ``half`` is "down" or "up".
    """
    return _JOINED.fullmatch(key)


def parse(key: str) -> PeftKey | None:
    """Take a tensor name apart; None if it is not half of a low-rank pair."""
    plain = _WRAPPERS.sub("", key)
    prefixed = plain.startswith(PREFIX)
    plain = plain.removeprefix(PREFIX)
    for pattern, embedding in ((_MATRIX, False), (_EMBEDDING, True)):
        match = pattern.fullmatch(plain)
        if match:
            half: Half = "A" if match[2] == "A" else "B"
            return PeftKey(match[1], half, embedding, match[3], prefixed)
    return None


def spell(inner: str, half: Half, embedding: bool = False) -> str:
    """Return the name PEFT gives (and loads) half of a pair; inverse of :func:`parse`."""
    return f"{PREFIX}{inner}." + (f"lora_embedding_{half}" if embedding else f"lora_{half}.weight")


def peft_name(key: str, named: bool) -> str:
    """Return the name PEFT gives to a tensor that is not half of a pair.

    named: whether the word after "modules_to_save" is an adapter's name; see :func:`names_adapter`.
    """
    plain = _WRAPPERS.sub("", key)
    if not plain.startswith("base_model."):
        plain = PREFIX + plain
    for pattern, replacement in _NAMED:
        plain = pattern.sub(replacement, plain)
    return _KEPT.sub(".", plain) if named else plain


def names_adapter(keys: Collection[str]) -> bool:
    """Return whether the word after PEFT's wrapper of a module to save is an adapter's name.

    Otherwise it is a part of the module. It is a name if all of these keys have the same word there
    with more after it, no other tensor that is kept whole contains it, and no tensor of the
    original module is present (``bias="all"`` saves copies beside the original under their own
    names).
    """
    words = _words(keys)
    if len(words) != 1 or words == {""}:
        return False
    part, apart = f".{words.pop()}.", (*_PARTS, _SAVED)
    others = [key for key in keys if not any(x in key for x in apart)]
    return not any(part in key or _BEFORE in key for key in others)


def _words(keys: Collection[str]) -> set[str]:
    """Return the words behind the wrapper's name of keys that have it, "" at the end of a key."""
    behind = [key.partition(_SAVED)[2].partition(".") for key in keys if _SAVED in key]
    return {word if dot else "" for word, dot, _ in behind}


def saved_names(keys: Collection[str]) -> dict[str, str]:
    """Return the path in the base model of each tensor that is kept whole, by key.

    Names lose what PEFT's wrapper of a module to save left inside. Keys of copies are left out: of
    a tensor that is there under its plain name, as ``bias="all"`` saves them, and of what the
    module was before.
    """
    names = {key: _WRAPPERS.sub("", key).removeprefix(PREFIX) for key in keys if _BEFORE not in key}
    plain = {name for name in names.values() if _SAVED not in name}
    named, one = names_adapter(keys), len(_words(keys)) == 1
    result = {}
    for key, name in names.items():
        bare = name.replace(_SAVED, ".")
        short = re.sub(rf"{re.escape(_SAVED)}[^.]+\.", ".", name) if one else bare
        if _SAVED not in name or not {bare, short} & plain:
            result[key] = short if named else bare
    return result


def extra_kind(key: str, bias: str, saved_modules: Collection[str]) -> ExtraKind | None:
    """Classify a tensor outside the pairs; None if it belongs to a variant that is not supported.

    bias: the setting "bias".  saved_modules: the setting "modules_to_save".
    """
    parts = key.split(".")
    if "lora_magnitude_vector" in parts:
        return "dora_magnitude"
    if re.search(r"\.lora_B(?:\.[^.]+)?\.bias$", key):
        return "lora_bias"
    if "trainable_tokens_delta" in parts:
        return "token_rows"
    if "lora_velora_embed" in parts:
        return "exact"  # VeLoRA's projection of gradients, without effect but in training
    if _UNKNOWN.search(f".{key}"):
        return None
    inside_saved = "modules_to_save" in parts or any(part in saved_modules for part in parts)
    return "bias" if bias != "none" and parts[-1] == "bias" and not inside_saved else "saved"
