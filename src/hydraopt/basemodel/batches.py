"""Texts in batches for teacher forcing; what they begin alike is computed once where that pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hydraopt.basemodel.encoding import Batch, Encoded, batches_by_tokens, collate
from hydraopt.basemodel.likelihood import shares_beginnings, within_window
from hydraopt.basemodel.model import BATCH_TOKENS
from hydraopt.basemodel.trie import Trie, batch_of, lines_of

__all__ = ["batches_of", "one_batch"]

_LEAST_SAVED: Final = 0.1
"""Of the tokens: below it, masks cost what sharing saves."""


def batches_of(model: Any, texts: Sequence[Encoded]) -> list[tuple[list[int], Batch]]:
    """All texts as (which, their batch): about BATCH_TOKENS padded tokens each, or one longer text.

    Each has one token before its target. The layout depends on the texts and the model alone, so
    whatever is on the model sees the same batches.
    """
    lines = _shared_lines(model, texts)
    if lines is None:
        chunks = batches_by_tokens([len(text) for text in texts], BATCH_TOKENS)
        return [(chunk, collate([texts[i] for i in chunk])) for chunk in chunks]
    lengths = [len(trie.tokens) for _, trie in lines]
    chunks = batches_by_tokens(lengths, BATCH_TOKENS)
    return [batch_of([lines[k] for k in chunk], texts) for chunk in chunks]


def one_batch(model: Any, texts: Sequence[Encoded]) -> Batch:
    """The texts as one batch, of any length; their targets may stand in another order."""
    lines = _shared_lines(model, texts)
    return collate(texts) if lines is None else batch_of(lines, texts)[1]


def _shared_lines(model: Any, texts: Sequence[Encoded]) -> list[tuple[list[int], Trie]] | None:
    """Lines of texts, or None where too little is common or the model reads them otherwise."""
    lines = lines_of(texts)
    nodes = sum(len(trie.tokens) for _, trie in lines)
    if nodes >= (1 - _LEAST_SAVED) * sum(len(text) - 1 for text in texts):
        return None
    some = next(line for line, _ in lines if len(line) > 1)[:2]
    fine = within_window(model, texts) and shares_beginnings(model, [texts[i] for i in some])
    return lines if fine else None
