"""Log-likelihoods of texts under a model; tokens that texts share at the start are computed once.

The texts of a group are laid out as one trie (:mod:`hydraopt.basemodel.trie`). So the three answers
to a question cost the question once, and twenty versions of a row the row once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydraopt.basemodel.encoding import Encoded, batches_by_tokens
from hydraopt.basemodel.model import (
    BATCH_TOKENS,
    Placed,
    attached,
    logits_of,
    states_of,
)
from hydraopt.basemodel.products import products_of
from hydraopt.basemodel.trie import Trie, laid_out, trie_of
from hydraopt.errors import UsageError, explain

__all__ = ["likelihoods", "shares_beginnings", "window_of"]

Numbers = NDArray[np.float64]

_AT_ONCE: Final = 256
"""Tokens whose logits over the vocabulary are held at a time."""
MOST_NODES: Final = 1024
"""Tokens of one trie; a larger group is laid out as several."""
_ALIKE: Final = 1e-3
_ROUNDINGS: Final = 8
"""Largest difference between states of a text in a trie and of the text alone, relative to the
largest state, is _ALIKE; at lower precision, this number of floating-point steps."""
_WINDOWS: Final = ("sliding_window", "attention_chunk_size", "attention_window_size")


@torch.inference_mode()
def likelihoods(
    model: Any,
    groups: Sequence[Sequence[Encoded]],
    placed: Placed,
    progress: Callable[[int, int], None] | None = None,
    shared: bool = True,
) -> list[Numbers]:
    """Return log P(target | prompt) of each text of each group, in nats, summed over tokens.

    groups: texts that likely have a common beginning; a prompt has at least one token.
    placed: the factors on the model.
    shared: whether common tokens are computed once, see :func:`shares_beginnings`.
    progress: called with the numbers of groups done and of all groups.

    The same groups give the same numbers for the same factors, whatever was computed before.
    Raises UsageError for a text without a prompt.
    """
    made = [np.zeros(len(group)) for group in groups]
    parts = [part for i, group in enumerate(groups) for part in _parts(i, group, model, shared)]
    done = 0
    for chunk in batches_by_tokens([len(trie.tokens) for _, _, trie in parts], BATCH_TOKENS):
        if progress:
            progress(done, len(parts))
        batch = [parts[k] for k in chunk]
        with attached(model, placed):
            hidden = states_of(model, *laid_out([trie for _, _, trie in batch]))
        for (i, texts, trie), states in zip(batch, hidden, strict=True):
            some = [groups[i][text] for text in texts]
            np.add.at(made[i], texts, _sums(model, trie, states, some, placed))
        done += len(chunk)
    return made


def _parts(
    number: int, group: Sequence[Encoded], model: Any, shared: bool
) -> Iterator[tuple[int, list[int], Trie]]:
    """Yield (the group, its texts, their trie).

    A group is split if it is too large or windows cut it.
    """
    if any(not item.prompt or not item.target for item in group):
        raise UsageError(explain("a text has nothing before it", expected="a token at least"))
    whole = shared and _within_window(model, group)
    waiting = [list(range(len(group)))] if whole else [[i] for i in range(len(group))]
    while waiting:
        texts = waiting.pop(0)
        trie = trie_of([group[i] for i in texts], whole)
        if len(trie.tokens) <= MOST_NODES or len(texts) == 1:
            yield number, texts, trie
        else:
            half = len(texts) // 2
            waiting = [texts[:half], texts[half:], *waiting]


def _sums(
    model: Any, trie: Trie, states: Tensor, texts: Sequence[Encoded], placed: Placed
) -> Numbers:
    """Return the log-likelihood of each text, whose trie this is, (texts,)."""
    asks: dict[int, list[tuple[int, int]]] = {}
    for text, nodes in enumerate(trie.asked):
        for node, token in zip(nodes, texts[text].target, strict=True):
            asks.setdefault(node, []).append((text, token))
    sums, nodes = np.zeros(len(texts)), sorted(asks)
    for start in range(0, len(nodes), _AT_ONCE):
        some = nodes[start : start + _AT_ONCE]
        logits = logits_of(model, states[some], placed)
        total = logits.logsumexp(-1)
        told = [(k, text, token) for k, node in enumerate(some) for text, token in asks[node]]
        rows = torch.tensor([k for k, _, _ in told])
        tokens = torch.tensor([token for _, _, token in told])
        logs = (logits[rows, tokens] - total[rows]).double().numpy()
        np.add.at(sums, [text for _, text, _ in told], logs)
    return sums


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

    It is tried on the first group that can show it. None if no group can, for example where one
    text is the beginning of the other, or no text fits the window. Models with their own positions
    or masks do not support tries, and take each text alone.
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
