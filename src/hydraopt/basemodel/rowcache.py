"""A model's cache for rows that come and go: keys and values, padded on the left.

A new row is computed with others that are new, then laid beside the rows under way; a row that has
ended is taken out. All layers keep all positions, sliding ones as well: their masks say what they
see, and one layout holds for all.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hydraopt.errors import UsageError, explain

__all__ = ["RowCache"]


class RowCache:
    """N rows of a batch. mask: (N, L), 1 where the cache has a token of the row."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._layers: list[tuple[Tensor, Tensor]] = []
        # transformers has given the argument a new name.
        known = inspect.signature(model.forward).parameters
        self._argument = "cache" if "cache" in known else "past_key_values"
        self.mask = torch.zeros(0, 0, dtype=torch.long)

    def __len__(self) -> int:
        return int(self.mask.shape[0])

    def start(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Fill an empty batch with prompts; logits (N, vocabulary) after each."""
        device = self._model.get_input_embeddings().weight.device
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(x)) + [*x] for x in prompts], device=device)
        lengths = torch.tensor([[len(x)] for x in prompts], device=device)
        self.mask = (torch.arange(longest, device=device) >= longest - lengths).long()
        return self._forward(ids, (self.mask.cumsum(-1) - 1).clamp(min=0))

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Add a token to each row; logits (N, vocabulary) after it."""
        ids = torch.tensor(tokens, device=self.mask.device)[:, None]
        at = self.mask.sum(-1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], 1)
        return self._forward(ids, at)

    def join(self, other: RowCache) -> None:
        """Put the rows of another batch below these."""
        if not len(self):
            self.mask, self._layers = other.mask, other._layers
            return
        length = max(self.mask.shape[1], other.mask.shape[1])
        mask = torch.cat([_padded(x.mask, length, 1) for x in (self, other)])
        # Both or neither: rows under way outlive memory that runs out here.
        layers = [
            (
                torch.cat([_padded(x, length, 2) for x in (mine[0], its[0])]),
                torch.cat([_padded(x, length, 2) for x in (mine[1], its[1])]),
            )
            for mine, its in zip(self._layers, other._layers, strict=True)
        ]
        self.mask, self._layers = mask, layers

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows alone, each as often as given, and no padding that all of them have."""
        if not rows:
            self.mask, self._layers = self.mask[:0, :0], []
            return
        index = torch.tensor(rows, device=self.mask.device)
        mask = self.mask.index_select(0, index)
        first = int(mask.shape[1] - mask.sum(-1).max())
        self.mask = mask[:, first:]
        self._layers = [
            (k.index_select(0, index)[:, :, first:], v.index_select(0, index)[:, :, first:])
            for k, v in self._layers
        ]

    def _forward(self, ids: Tensor, at: Tensor) -> Tensor:
        from transformers import DynamicCache

        cache = DynamicCache(self._layers or None)
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=at,
            use_cache=True,
            logits_to_keep=1,
            **{self._argument: cache},
        ).logits[:, -1]
        self._layers = [_kept(layer, self.mask) for layer in cache.layers]
        return logits


def _kept(layer: Any, mask: Tensor) -> tuple[Tensor, Tensor]:
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    fits = all(
        isinstance(x, Tensor) and x.dim() == 4 and x.shape[0] == mask.shape[0]
        and x.shape[2] == mask.shape[1]
        for x in (keys, values)
    )  # fmt: skip
    if not fits or keys is None or values is None:
        raise UsageError(
            explain(
                "the base model's cache is not one of keys and values",
                got=type(layer).__name__,
                expected="attention layers whose keys are (rows, heads, positions, width)",
                do="Serve the exported adapters with another engine",
            )
        )
    return keys, values


def _padded(x: Tensor, length: int, dim: int) -> Tensor:
    """Return x padded with zeros in front to ``length`` in that dimension."""
    missing = length - x.shape[dim]
    if not missing:
        return x
    shape = list(x.shape)
    shape[dim] = missing
    return torch.cat([x.new_zeros(shape), x], dim)
