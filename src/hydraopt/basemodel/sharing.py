"""Check whether a model computes texts that share beginnings as it computes each text alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch

from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.model import states_of
from hydraopt.basemodel.products import products_of
from hydraopt.basemodel.trie import Trie, laid_out, trie_of

__all__ = ["shares_beginnings", "window_of"]

_ALIKE: Final = 1e-3
_ROUNDINGS: Final = 8
"""Largest difference between states of a text in a trie and of the text alone, relative to the
largest state, is _ALIKE; at lower precision, this number of floating-point steps."""
_WINDOWS: Final = ("sliding_window", "attention_chunk_size", "attention_window_size")


def _within_window(model: Any, texts: Sequence[Encoded]) -> bool:
    """Return whether all texts fit the model's attention window, which a custom mask ignores."""
    return max(map(len, texts), default=0) <= window_of(model)


def window_of(model: Any) -> float:
    """Return the number of tokens in the narrowest attention window; infinite without one."""
    config = model.config.get_text_config()
    known = (getattr(config, name, None) for name in _WINDOWS)
    return min((x for x in known if x), default=math.inf)


@torch.inference_mode()
def shares_beginnings(model: Any, groups: Iterable[Sequence[Encoded]]) -> bool | None:
    """Return whether the model computes a trie as it computes its texts alone.

    Tests the first group that can show it. None if no group can, for example if one text is the
    beginning of the other, or no text fits the window. Models with their own positions or masks do
    not support tries; they get each text alone.
    """
    for group in groups:
        if _within_window(model, group) and not (trie := trie_of(group)).is_one_text:
            with products_of("float32"):
                return _reads_alike(model, group, trie)
    return None


def _reads_alike(model: Any, group: Sequence[Encoded], trie: Trie) -> bool:
    """Return whether each text has the same states in the trie as alone, up to rounding."""
    try:
        together = states_of(model, *laid_out([trie]))[0]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    for text, nodes in zip(group, trie.asked, strict=True):
        alone = states_of(model, *laid_out([trie_of([text])]))[0][len(text.prompt) - 1 :]
        step = torch.finfo(alone.dtype).eps
        most = max(_ALIKE, _ROUNDINGS * step) * float(alone.abs().max())
        if float((together[nodes] - alone).abs().max()) > most:
            return False
    return True
