"""What a base model with factors on it writes, greedily."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import Tensor

from hydraopt.basemodel.encoding import Encoded, batches_by_tokens, left_padded
from hydraopt.basemodel.model import (
    BATCH_TOKENS,
    Placed,
    TaskFactors,
    attached_in_blocks,
    contiguous_head,
    place,
)
from hydraopt.basemodel.rowcache import RowCache
from hydraopt.errors import UsageError

__all__ = ["WRITE_TOKENS", "answered", "generate"]

WRITE_TOKENS = 16 * BATCH_TOKENS
"""Padded tokens of a batch for writing, where every step computes one token of each row."""
_REFILL: Final = 3 / 4
"""Others come in when so much of a full batch is left."""
_NO_ROWS: Final = (
    AttributeError, IndexError, RuntimeError, TypeError, UsageError, ValueError
)  # fmt: skip
"""What a model raises that keeps something else than keys and values, or places tokens itself."""


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    items: Sequence[Encoded],
    factors: Sequence[Placed],
    most: int | Sequence[int],
    batch_tokens: int,
) -> list[tuple[int, ...]]:
    """The greedy answer to each item.

    factors: of each item; a batch may hold several. most: tokens of an answer at most, EOS
    included, with which an answer ends unless it was cut; of each, or of all. batch_tokens: padded
    tokens of a batch, answers as long as they may be among them.
    """
    limits = [most] * len(items) if isinstance(most, int) else list(most)
    if not items:
        return []
    with contiguous_head(model):
        writer = _Writer(model, tokenizer.eos_token_id, items, factors, limits, batch_tokens)
        try:
            writer.go_on()
        except _NO_ROWS:
            return _in_turn(model, tokenizer, items, factors, limits, batch_tokens)
        while writer.under_way:
            writer.go_on()
    return [tuple(answer) for answer in writer.said]


class _Writer:
    """Answers under way. A row that is done leaves the batch, which would otherwise take as long as
    its longest answer, with every row; as room is left, others come in below.

    said: of each item, the tokens so far.
    """

    def __init__(
        self,
        model: Any,
        eos: int,
        items: Sequence[Encoded],
        factors: Sequence[Placed],
        limits: Sequence[int],
        batch_tokens: int,
    ) -> None:
        self._model, self._eos, self._batch_tokens = model, eos, batch_tokens
        self._prompts, self._factors, self._limits = [x.prompt for x in items], factors, limits
        self._sizes = [len(x.prompt) + limit for x, limit in zip(items, limits, strict=True)]
        kinds = {key: k for k, key in enumerate(dict.fromkeys(map(id, factors)))}
        order = sorted(range(len(items)), key=lambda i: (kinds[id(factors[i])], self._sizes[i]))
        self._waiting = deque(order)
        self._cache, self._full = RowCache(model), 0
        self._rows: list[int] = []  # items, in the cache's order; those of equal factors together
        self.said: list[list[int]] = [[] for _ in items]

    @property
    def under_way(self) -> bool:
        """Whether an answer has not ended."""
        return bool(self._rows or self._waiting)

    def go_on(self) -> None:
        """Write a token of each row, and the first of those that come in."""
        logits = []
        if self._rows:
            with _each(self._model, [self._factors[i] for i in self._rows]):
                logits.append(self._cache.step([self.said[i][-1] for i in self._rows]))
        # A prompt costs a pass of its own, so that a few come in together.
        if len(self._rows) <= _REFILL * self._full and (new := self._invited()):
            logits.append(self._joined(new))
        self._say(torch.cat(logits).argmax(-1).tolist())

    def _invited(self) -> list[int]:
        """The items that there is room for, one at the least if the batch is empty."""
        new: list[int] = []
        widest = max((self._sizes[i] for i in self._rows), default=0)
        while self._waiting:
            widest = max(widest, self._sizes[self._waiting[0]])
            count = len(self._rows) + len(new)
            if count and (count + 1) * widest > self._batch_tokens:
                break
            new.append(self._waiting.popleft())
        self._full = len(self._rows) + len(new)
        return new

    def _joined(self, new: Sequence[int]) -> Tensor:
        """These items come in; logits of their first tokens, (N, vocabulary)."""
        started = RowCache(self._model)
        with _each(self._model, [self._factors[i] for i in new]):
            logits = started.start([self._prompts[i] for i in new])
        self._cache.join(started)
        self._rows += new
        return logits

    def _say(self, tokens: Sequence[int]) -> None:
        """Add a token to each row; rows that are done leave."""
        for i, token in zip(self._rows, tokens, strict=True):
            self.said[i].append(token)
        going = [k for k, i in enumerate(self._rows) if self._goes_on(i)]
        if len(going) < len(self._rows):
            self._cache.keep(going)
            self._rows = [self._rows[k] for k in going]

    def _goes_on(self, i: int) -> bool:
        return len(self.said[i]) < self._limits[i] and self.said[i][-1] != self._eos


def _in_turn(
    model: Any,
    tokenizer: Any,
    items: Sequence[Encoded],
    factors: Sequence[Placed],
    limits: Sequence[int],
    batch_tokens: int,
) -> list[tuple[int, ...]]:
    """The same in batches, one after another, by transformers' own loop."""
    said: list[tuple[int, ...]] = [()] * len(items)
    sizes = [len(item.prompt) + limit for item, limit in zip(items, limits, strict=True)]
    for mixed in batches_by_tokens(sizes, batch_tokens):
        chunk = sorted(mixed, key=lambda i: id(factors[i]))
        most = max(limits[i] for i in chunk)
        with _each(model, [factors[i] for i in chunk]):
            answers = _by_transformers(model, tokenizer, [items[i].prompt for i in chunk], most)
        for i, answer in zip(chunk, answers, strict=True):
            said[i] = answer[: limits[i]]
    return said


def _each(model: Any, factors: Sequence[Placed]) -> AbstractContextManager[None]:
    """Each row of a batch with its own factors on the model."""
    runs = [list(run) for _, run in itertools.groupby(factors, key=id)]
    return attached_in_blocks(model, [(run[0], len(run)) for run in runs])


def _by_transformers(
    model: Any, tokenizer: Any, prompts: Sequence[tuple[int, ...]], most: int
) -> list[tuple[int, ...]]:
    """The same by transformers' own loop, prompts padded on the left. Nothing that the model's own
    settings say of writing counts."""
    from transformers import GenerationConfig

    eos = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
    ids, mask = left_padded(prompts, pad)
    plain: Any = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=most, do_sample=False, pad_token_id=pad, eos_token_id=eos
    )
    # What a call does not set, transformers takes from the model's own.
    own, model.generation_config = model.generation_config, plain
    try:
        out = model.generate(input_ids=ids, attention_mask=mask)
    finally:
        model.generation_config = own
    answers = out[:, ids.shape[1] :].tolist()
    return [tuple(x[: x.index(eos) + 1] if eos in x else x) for x in answers]


def answered(
    model: Any, tokenizer: Any, prompts: Sequence[Encoded], factors: TaskFactors, most: int = 48
) -> list[Encoded]:
    """The prompts with what the adapted model answers, greedily: unlabelled inputs are enough."""
    placed = place(model, factors)
    said = generate(model, tokenizer, prompts, [placed] * len(prompts), most, WRITE_TOKENS)
    return [Encoded(x.prompt, answer) for x, answer in zip(prompts, said, strict=True)]
