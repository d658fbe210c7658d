"""Batch texts for teacher forcing; common beginnings are computed once if that saves time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

from hydraopt.basemodel.encoding import Batch, Encoded, batches_by_tokens, collate
from hydraopt.basemodel.model import BATCH_TOKENS
from hydraopt.basemodel.sharing import shares_beginnings, window_of
from hydraopt.basemodel.trie import Trie, batch_of, lines_of

__all__ = ["batch_of_each", "batches_of"]

_LEAST_SAVED: Final = 0.1
"""Smallest share of tokens that sharing must save; below it, masks cost what sharing saves."""


def batches_of(model: Any, texts: Sequence[Encoded]) -> list[tuple[list[int], Batch]]:
    """Return all texts as (indices, their batch).

    A batch has about BATCH_TOKENS padded tokens, or one longer line. Each text needs a token before
    its target. The layout depends only on the texts and the model, so all sets of factors get the
    same batches.
    """
    window = window_of(model)
    fits = [i for i, text in enumerate(texts) if len(text) <= window]
    lines = _shared_lines(model, [texts[i] for i in fits])
    alone = range(len(texts)) if lines is None else sorted(set(range(len(texts))) - set(fits))
    lengths = [len(texts[i]) for i in alone]
    made = []
    for chunk in batches_by_tokens(lengths, BATCH_TOKENS):
        which = [alone[k] for k in chunk]
        made.append((which, collate([texts[i] for i in which])))
    if lines is not None:
        placed = [([fits[k] for k in line], trie) for line, trie in lines]
        lengths = [len(trie.tokens) for _, trie in placed]
        for chunk in batches_by_tokens(lengths, BATCH_TOKENS):
            made.append(batch_of([placed[k] for k in chunk], texts))
    return made


def batch_of_each(model: Any, groups: Sequence[Sequence[Encoded]]) -> list[Batch]:
    """Return each group as one batch, of any length; targets may be in another order.

    Whether to share beginnings is decided once for all groups.
    """
    every = [text for group in groups for text in group]
    fine = max(map(len, every), default=0) <= window_of(model)
    if not fine or _shared_lines(model, every) is None:
        return [collate(group) for group in groups]
    return [batch_of(lines_of(group), group)[1] for group in groups]


def _shared_lines(model: Any, texts: Sequence[Encoded]) -> list[tuple[list[int], Trie]] | None:
    """Return lines of texts; None if they share too little, or the model does not support tries."""
    lines = lines_of(texts)
    nodes = sum(len(trie.tokens) for _, trie in lines)
    if nodes >= (1 - _LEAST_SAVED) * sum(len(text) - 1 for text in texts):
        return None
    pairs = ([texts[i], texts[k]] for line, _ in lines for i, k in itertools.pairwise(line))
    return None if shares_beginnings(model, pairs) is False else lines
