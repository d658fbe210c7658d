"""Batch texts for teacher forcing; common beginnings are computed once if that saves time.

A row of such a batch has several texts as one trie. A node is a token; a mask lets it attend only
to the nodes on the way from the root, and its position is that in its own text. So several answers
to a question need the question once, and the prompts of a task need their common instruction once
per row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch

from hydraopt.basemodel.encoding import Batch, Encoded, batches_by_tokens, collate
from hydraopt.basemodel.model import BATCH_TOKENS, states_of
from hydraopt.basemodel.products import products_of

__all__ = ["batch_of_each", "batches_of"]

_LEAST_SAVED: Final = 0.1
"""Smallest share of tokens that sharing must save; below it, masks cost what sharing saves."""
_ROW: Final = 256
"""Usual maximum of a row's tokens: repeated beginnings are rare, and attention is cheap."""
_LONGEST_ROW: Final = 2048
"""Maximum number of tokens in a row of several texts; a mask has the square of this number of
entries."""
_ASKED: Final = 2
"""Weight of a target's token in a row's size, because logits over a vocabulary take memory."""
_ALIKE: Final = 1e-3
_ROUNDINGS: Final = 8
"""Largest difference between states of a text in a trie and of the text alone, relative to the
largest state, is _ALIKE; at lower precision, this number of floating-point steps."""
_WINDOWS: Final = ("sliding_window", "attention_chunk_size", "attention_window_size")


def batches_of(model: Any, texts: Sequence[Encoded]) -> list[tuple[list[int], Batch]]:
    """Return all texts as (indices, their batch).

    A batch has about BATCH_TOKENS padded tokens, or one longer text. Each text needs a token before
    its target. The layout depends only on the texts and the model, so all sets of factors get the
    same batches.
    """
    window = _window_of(model)
    fits = [i for i, text in enumerate(texts) if len(text) <= window]
    rows = _rows_of([texts[i] for i in fits])
    if not _pays(model, [texts[i] for i in fits], rows):
        fits, rows = [], []
    alone = sorted(set(range(len(texts))) - set(fits))
    made = []
    for chunk in batches_by_tokens([len(texts[i]) for i in alone], BATCH_TOKENS):
        which = [alone[k] for k in chunk]
        made.append((which, collate([texts[i] for i in which])))
    shared = [[fits[k] for k in row] for row in rows]
    tries = [_trie_of([texts[i] for i in row]) for row in shared]
    for chunk in batches_by_tokens([len(trie[0]) for trie in tries], BATCH_TOKENS):
        which = [i for k in chunk for i in shared[k]]
        made.append((which, _shared_batch([tries[k] for k in chunk], [texts[i] for i in which])))
    return made


def batch_of_each(model: Any, groups: Sequence[Sequence[Encoded]]) -> list[Batch]:
    """Return each group as one batch, of any length; targets may be in another order.

    Whether to share beginnings is decided once for all groups.
    """
    every = [text for group in groups for text in group]
    fine = max(map(len, every), default=0) <= _window_of(model)
    if not fine or not _pays(model, every, _rows_of(every)):
        return [collate(group) for group in groups]
    made = []
    for group in groups:
        rows = [[group[i] for i in row] for row in _rows_of(group)]
        made.append(_shared_batch(list(map(_trie_of, rows)), list(itertools.chain(*rows))))
    return made


_Trie = tuple[list[int], list[int], list[list[int]]]
"""Several texts as one: the token of each node; its parent, -1 for none, which comes before its
children; and for each text the nodes from which the tokens of its target are predicted."""


def _trie_of(texts: Sequence[Encoded]) -> _Trie:
    tokens: list[int] = []
    parents: list[int] = []
    asked: list[list[int]] = []
    known: dict[tuple[int, int], int] = {}
    for text in texts:
        node, path = -1, []
        for token in (text.prompt + text.target)[:-1]:
            place = (node, token)
            if place not in known:
                known[place] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = known[place]
            path.append(node)
        asked.append(path[len(text.prompt) - 1 :])
    return tokens, parents, asked


def _rows_of(texts: Sequence[Encoded]) -> list[list[int]]:
    """Return the indices of all texts, in rows of a limited size whose texts begin alike.

    A text that is longer than the limit of a shared row has a row of its own.
    """
    whole = [(text.prompt + text.target)[:-1] for text in texts]
    most = min(max(_ROW, 2 * max(map(len, whole), default=0)), _LONGEST_ROW)
    rows: list[list[int]] = []
    nodes = targets = 0
    before: tuple[int, ...] = ()
    for i in sorted(range(len(texts)), key=lambda i: whole[i]):  # what begins alike is neighbours
        pairs = zip(before, whole[i], strict=False)
        new = len(whole[i]) - sum(1 for _ in itertools.takewhile(lambda x: x[0] == x[1], pairs))
        asked = _ASKED * len(texts[i].target)
        if not rows or max(nodes + new, targets + asked) > most:
            rows.append([])
            nodes, targets, new = 0, 0, len(whole[i])
        rows[-1].append(i)
        nodes, targets, before = nodes + new, targets + asked, whole[i]
    return rows


def _shared_batch(tries: Sequence[_Trie], texts: Sequence[Encoded]) -> Batch:
    """Return the batch of tries, a row each, whose texts are given in the same order."""
    length = max(len(tokens) for tokens, _, _ in tries)
    ids = torch.zeros(len(tries), length, dtype=torch.long)
    parents = torch.full_like(ids, -1)
    where: list[int] = []
    for row, (tokens, above, asked) in enumerate(tries):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        parents[row, : len(tokens)] = torch.tensor(above)
        where += [row * length + node for nodes in asked for node in nodes]
    labels = [token for text in texts for token in text.target]
    numbers = [k for k, text in enumerate(texts) for _ in text.target]
    one_text = all(_is_one_text(trie) for trie in tries)
    which, wanted, texts_of = (torch.tensor(x) for x in (where, labels, numbers))
    return Batch(ids, which, wanted, texts_of, None if one_text else parents)


def _is_one_text(trie: _Trie) -> bool:
    """Return whether no mask is needed, because each token attends to all tokens before it."""
    return trie[1] == list(range(-1, len(trie[1]) - 1))


def _window_of(model: Any) -> float:
    """Return the tokens of the narrowest attention window, which a custom mask ignores, or inf."""
    config = model.config.get_text_config()
    known = (getattr(config, name, None) for name in _WINDOWS)
    return min((x for x in known if x), default=math.inf)


def _pays(model: Any, texts: Sequence[Encoded], rows: Sequence[Sequence[int]]) -> bool:
    """Return whether rows share enough, and the model computes a trie as it computes texts alone.

    Models with their own positions or masks do not support tries; they get each text alone. The
    first two neighbours that differ before their last tokens show it.
    """
    nodes = sum(len(_trie_of([texts[i] for i in row])[0]) for row in rows)
    if nodes >= (1 - _LEAST_SAVED) * sum(len(text) - 1 for text in texts):
        return False
    for pair in _neighbours(texts, rows):
        if not _is_one_text(_trie_of(pair)):
            with products_of("float32"):
                return _reads_alike(model, pair)
    return True


def _neighbours(
    texts: Sequence[Encoded], rows: Sequence[Sequence[int]]
) -> Iterator[tuple[Encoded, Encoded]]:
    for row in rows:
        yield from ((texts[i], texts[k]) for i, k in itertools.pairwise(row))


@torch.inference_mode()
def _reads_alike(model: Any, texts: Sequence[Encoded]) -> bool:
    """Return whether each text has the same states in the trie as alone, up to rounding."""
    batch = _shared_batch([_trie_of(texts)], texts)
    try:
        together = states_of(model, batch.ids, batch.parents)[0]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    for number, text in enumerate(texts):
        alone = states_of(model, collate([text]).ids, None)[0][len(text.prompt) - 1 :]
        step = torch.finfo(alone.dtype).eps
        most = max(_ALIKE, _ROUNDINGS * step) * float(alone.abs().max())
        if float((together[batch.where[batch.row == number]] - alone).abs().max()) > most:
            return False
    return True
