"""Group and language of a task, taken from its name where no other source states them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["NONE", "kind_of", "language_name", "parts_of", "shown_name"]

_LANGUAGE: Final = re.compile(r"(?P<group>.+)[-_.](?P<language>[a-z]{2,3}(?:-[A-Za-z]{2,4})?)$")
NONE: Final = "(none)"
"""Value for a task without a language or a group."""

_LANGUAGES: Final = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "fa": "Persian", "fi": "Finnish", "fr": "French",
    "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian", "id": "Indonesian", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "sw": "Swahili",
    "ta": "Tamil", "te": "Telugu", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def language_name(code: str) -> str:
    """Return a code with its name, "German (de)"; an unknown code as it is."""
    name = _LANGUAGES.get(code)
    return f"{name} ({code})" if name else code


def shown_name(name: str) -> str:
    """Return a file's name as text, with "?" for characters that text cannot hold."""
    return name.encode(errors="replace").decode()


def parts_of(
    names: Iterable[str], said: Mapping[str, tuple[str, str]]
) -> dict[str, tuple[str, str]]:
    """Return (group, language) of each task, from ``said`` or else from a name GROUP-LANGUAGE.

    An ending counts as a language only if it is a known code, so "-v2" or "-bot" does not.
    """
    made = {}
    for name in names:
        match = _LANGUAGE.fullmatch(name)
        if name in said:
            made[name] = said[name]
        elif match and match["language"].partition("-")[0] in _LANGUAGES:
            made[name] = match["group"], match["language"]
        else:
            made[name] = name, NONE
    # A group of one task says no more than its name does.
    counts = Counter(group for group, _ in made.values())
    return {
        name: (group if counts[group] > 1 or language != NONE else NONE, language)
        for name, (group, language) in made.items()
    }


def kind_of(config: Mapping[str, Any], lossless: bool, extras: bool) -> str:
    """Describe in words how a task was trained: "LoRA", "DoRA, with more tensors"."""
    tuner = str(config.get("peft_type") or "LORA")
    name = {"LORA": "LoRA", "LOHA": "LoHa", "LOKR": "LoKr"}.get(tuner, tuner)
    if config.get("use_dora") is True:
        name = "DoRA"
    if config.get("task_type") == "SEQ_CLS":
        name += ", a classifier"
    elif extras:
        name += ", with more tensors"
    return f"{name}, lossless" if lossless else name
