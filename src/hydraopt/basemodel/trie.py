"""Lay out texts with common beginnings as tries, so that common tokens are computed once.

A node is a token. A mask lets it attend only to the nodes on the way from the root, and its
position is that in its own text. So several answers to a question need the question once, and the
prompts of a task need their common instruction once per line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hydraopt.basemodel.encoding import Batch, Encoded

__all__ = ["Trie", "batch_of", "laid_out", "lines_of", "trie_of"]

_LINE: Final = 256
"""Usual number of tokens per line: repeated beginnings are rare, and attention is cheap."""
_LONGEST_LINE: Final = 2048
"""Maximum number of tokens in a line of several texts; a mask has the square of this number of
entries."""
_ASKED: Final = 2
"""Weight of a target's token in a line's size, because logits over a vocabulary take memory."""


@dataclass(frozen=True)
class Trie:
    """Several texts as one.

    tokens, depths: of each node.
    parents: of each node, -1 for none; parents come before their children.
    asked: of each text, the nodes from which the tokens of its target are predicted, in order.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    asked: list[list[int]]

    @property
    def is_one_text(self) -> bool:
        """Return whether no mask is needed, because each token attends to all tokens before it."""
        return self.depths == list(range(len(self.depths)))


def trie_of(texts: Sequence[Encoded]) -> Trie:
    """Return the trie of some texts, each with at least one token before its target."""
    trie = Trie([], [], [], [])
    known: dict[tuple[int, int], int] = {}
    for text in texts:
        tokens, node, path = text.prompt + text.target, -1, []
        for depth, token in enumerate(tokens[:-1]):
            before, place = node, (node, token)
            node = known.get(place, -1)
            if node < 0:
                node = known[place] = len(trie.tokens)
                trie.tokens.append(token)
                trie.parents.append(before)
                trie.depths.append(depth)
            path.append(node)
        trie.asked.append(path[len(text.prompt) - 1 :])
    return trie


def lines_of(texts: Sequence[Encoded]) -> list[tuple[list[int], Trie]]:
    """Return all texts as (indices, their trie), in lines of about equal length.

    A text that is longer than the limit of a shared line has a line of its own.
    """
    whole = [(text.prompt + text.target)[:-1] for text in texts]
    order = sorted(range(len(texts)), key=lambda i: whole[i])  # what begins alike is neighbours
    most = min(max(_LINE, 2 * max(map(len, whole), default=0)), _LONGEST_LINE)
    asked = [_ASKED * len(text.target) for text in texts]
    nodes, lines = _cut(whole, asked, order, most, (most, most))
    even = (math.ceil(x / max(len(lines), 1)) for x in (nodes, sum(asked)))
    lines = _cut(whole, asked, order, most, tuple(even))[1]
    return [(line, trie_of([texts[i] for i in line])) for line in lines]


def _cut(
    whole: Sequence[tuple[int, ...]],
    asked: Sequence[int],
    order: Sequence[int],
    most: int,
    enough: tuple[int, ...],
) -> tuple[int, list[list[int]]]:
    """Return (nodes, lines): texts in that order, in lines of at most ``most`` nodes.

    most: also limits the targets of a line.
    enough: numbers of nodes and targets that together end a line earlier.
    """
    lines: list[list[int]] = []
    total = nodes = targets = 0
    before: tuple[int, ...] = ()
    for i in order:
        new = len(whole[i]) - _common(before, whole[i])
        full = max(nodes + new, targets + asked[i]) > most
        if not lines or full or (nodes >= enough[0] and targets >= enough[1]):
            lines.append([])
            nodes, targets, new = 0, 0, len(whole[i])
        lines[-1].append(i)
        nodes, targets, total = nodes + new, targets + asked[i], total + new
        before = whole[i]
    return total, lines


def _common(one: Sequence[int], two: Sequence[int]) -> int:
    """Return the number of tokens that both sequences have in common at the start."""
    for k, (x, y) in enumerate(zip(one, two, strict=False)):
        if x != y:
            return k
    return min(len(one), len(two))


def laid_out(tries: Sequence[Trie]) -> tuple[Tensor, Tensor | None]:
    """Return (ids, parents) of tries, a row each, padded on the right with id 0: as of a Batch."""
    length = max(len(trie.tokens) for trie in tries)
    ids = torch.zeros(len(tries), length, dtype=torch.long)
    parents = torch.full_like(ids, -1)
    for row, trie in enumerate(tries):
        ids[row, : len(trie.tokens)] = torch.tensor(trie.tokens)
        parents[row, : len(trie.tokens)] = torch.tensor(trie.parents)
    return ids, None if all(trie.is_one_text for trie in tries) else parents


def batch_of(
    lines: Sequence[tuple[Sequence[int], Trie]], texts: Sequence[Encoded]
) -> tuple[list[int], Batch]:
    """Return (which texts, their batch), a row each line."""
    ids, parents = laid_out([trie for _, trie in lines])
    where: list[int] = []
    labels: list[int] = []
    which = [i for line, _ in lines for i in line]
    for row, (line, trie) in enumerate(lines):
        for i, nodes in zip(line, trie.asked, strict=True):
            where += [row * ids.shape[1] + node for node in nodes]
            labels += texts[i].target
    number = [k for k, i in enumerate(which) for _ in texts[i].target]
    return which, Batch(
        ids, torch.tensor(where), torch.tensor(labels), torch.tensor(number), parents
    )
