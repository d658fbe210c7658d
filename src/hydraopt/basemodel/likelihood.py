"""How likely a model finds texts, many of which begin alike: what is common is computed once.

The token sequences of a group are laid out as one trie. A token sees those on the way from the
root to it and no others, by a mask, and has the position that it has in its own text. So the three
answers to a question cost the question once, and twenty versions of a row the row once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydraopt.basemodel.encoding import Encoded, batches_by_tokens
from hydraopt.basemodel.model import BATCH_TOKENS, Placed, attached, logits_of, products_of
from hydraopt.errors import UsageError, explain

__all__ = ["likelihoods", "shares_beginnings"]

Numbers = NDArray[np.float64]

_MOST_NODES: Final = 1024
"""Tokens of one trie; a larger group is laid out as several."""
_AT_ONCE: Final = 256
"""Tokens whose logits over the vocabulary are held at a time."""
_ALIKE: Final = 0.01
"""Nats by which a text in a trie may differ from the same text alone."""


@dataclass(frozen=True)
class _Trie:
    """tokens, parents, depths: of each node, a parent before its children, -1 for none. asked: by
    node, what is asked there: (text of the group, the token that comes next)."""

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    asked: dict[int, list[tuple[int, int]]]


def _trie(group: Sequence[Encoded], shared: bool = True) -> _Trie:
    trie = _Trie([], [], [], {})
    known: dict[tuple[int, int], int] = {}
    for text, item in enumerate(group):
        tokens = item.prompt + item.target
        node = -1
        for depth, token in enumerate(tokens[:-1]):
            before, place = node, (node, token)
            node = known.get(place, -1) if shared else -1
            if node < 0:
                node = known[place] = len(trie.tokens)
                trie.tokens.append(token)
                trie.parents.append(before)
                trie.depths.append(depth)
            if depth + 1 >= len(item.prompt):
                trie.asked.setdefault(node, []).append((text, tokens[depth + 1]))
    return trie


@torch.inference_mode()
def likelihoods(
    model: Any,
    groups: Sequence[Sequence[Encoded]],
    placed: Placed,
    progress: Callable[[int, int], None] | None = None,
    shared: bool = True,
) -> list[Numbers]:
    """Of each text of each group, log P(target | prompt) in nats, the sum over its tokens.

    groups: texts that likely begin alike; a prompt has one token at least. placed: the factors on
    the model. shared: whether what is common is computed once, see :func:`shares_beginnings`.
    progress: called with groups done and all. The same groups give the same numbers for the same
    factors, whatever was computed before. Raises UsageError for a text without a prompt.
    """
    made = [np.zeros(len(group)) for group in groups]
    parts = [part for i, group in enumerate(groups) for part in _parts(i, group, model, shared)]
    done = 0
    for chunk in batches_by_tokens([len(trie.tokens) for _, _, trie in parts], BATCH_TOKENS):
        if progress:
            progress(done, len(parts))
        batch = [parts[k] for k in chunk]
        with attached(model, placed):
            hidden = _hidden(model, [trie for _, _, trie in batch])
            for (i, texts, trie), states in zip(batch, hidden, strict=True):
                _add(model, trie, states, made[i], texts)
        done += len(chunk)
    return made


def _parts(
    number: int, group: Sequence[Encoded], model: Any, shared: bool
) -> Iterator[tuple[int, list[int], _Trie]]:
    """(the group, its texts, their trie): one, or more where one is too large or windows cut it."""
    if any(not item.prompt or not item.target for item in group):
        raise UsageError(explain("a text has nothing before it", expected="a token at least"))
    window = getattr(model.config, "sliding_window", None)
    whole = shared and (window is None or max(map(len, group)) <= window)
    waiting = [list(range(len(group)))] if whole else [[i] for i in range(len(group))]
    while waiting:
        texts = waiting.pop(0)
        trie = _trie([group[i] for i in texts], whole)
        if len(trie.tokens) <= _MOST_NODES or len(texts) == 1:
            yield number, texts, trie
        else:
            half = len(texts) // 2
            waiting = [texts[:half], texts[half:], *waiting]


def _hidden(model: Any, tries: Sequence[_Trie]) -> Tensor:
    """What the output layer sees at each node, (tries, longest, width)."""
    longest = max(len(trie.tokens) for trie in tries)
    ids = torch.zeros(len(tries), longest, dtype=torch.long)
    plain = all(trie.depths == list(range(len(trie.depths))) for trie in tries)
    for row, trie in enumerate(tries):
        ids[row, : len(trie.tokens)] = torch.tensor(trie.tokens)
    if plain:  # padding on the right reaches no real token
        states: Tensor = model.model(input_ids=ids, use_cache=False).last_hidden_state
        return states
    places = torch.zeros_like(ids)
    seen = torch.eye(longest, dtype=torch.bool).repeat(len(tries), 1, 1)
    for row, trie in enumerate(tries):
        places[row, : len(trie.depths)] = torch.tensor(trie.depths)
        for node, parent in enumerate(trie.parents):
            if parent >= 0:
                seen[row, node] |= seen[row, parent]
    dtype = next(model.parameters()).dtype
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    states = model.model(
        input_ids=ids, attention_mask=mask[:, None], position_ids=places, use_cache=False
    ).last_hidden_state
    return states


def _add(model: Any, trie: _Trie, states: Tensor, sums: Numbers, texts: Sequence[int]) -> None:
    """Add the log-likelihood of what is asked at each node to the sums of its texts."""
    nodes = sorted(trie.asked)
    for start in range(0, len(nodes), _AT_ONCE):
        some = nodes[start : start + _AT_ONCE]
        logits = logits_of(model, states[some])
        total = logits.logsumexp(-1)
        asks = [(k, text, token) for k, node in enumerate(some) for text, token in trie.asked[node]]
        rows = torch.tensor([k for k, _, _ in asks])
        tokens = torch.tensor([token for _, _, token in asks])
        logs = (logits[rows, tokens] - total[rows]).double().numpy()
        np.add.at(sums, [texts[text] for _, text, _ in asks], logs)


def shares_beginnings(model: Any, group: Sequence[Encoded]) -> bool:
    """Whether the model reads a trie as it reads the texts alone, tried on one group.

    Models that place or mask tokens in a way of their own do not; they take each text alone.
    """
    with products_of("float32"):
        try:
            together = likelihoods(model, [group], {})[0]
        except (RuntimeError, TypeError, ValueError):
            return False
        alone = likelihoods(model, [group], {}, shared=False)[0]
    return bool(np.abs(together - alone).max() <= _ALIKE)
