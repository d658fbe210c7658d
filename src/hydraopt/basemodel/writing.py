"""What a base model with factors on it writes, greedily."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import torch

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
    most: int,
    batch_tokens: int,
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Greedy answers, as (index of the item, tokens), in batches of prompts of similar length.

    factors: of each item; a batch may hold several. most: tokens of an answer at most, EOS
    included, with which an answer ends unless it was cut.
    """
    lengths = [len(item.prompt) + most for item in items]
    for mixed in batches_by_tokens(lengths, batch_tokens):
        chunk = sorted(mixed, key=lambda i: id(factors[i]))
        prompts, theirs = [items[i].prompt for i in chunk], [factors[i] for i in chunk]
        with contiguous_head(model):
            answers = _write(model, tokenizer, prompts, theirs, most)
        yield from zip(chunk, answers, strict=True)


def _write(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[tuple[int, ...]],
    factors: Sequence[Placed],
    most: int,
) -> list[tuple[int, ...]]:
    """The answer to each prompt. A row that is done leaves the batch, which would otherwise take as
    long as its longest answer, with every row. factors: of each row, equal ones side by side."""
    cache, rows = RowCache(model), list(range(len(prompts)))
    said: list[list[int]] = [[] for _ in prompts]
    with _each(model, factors):
        try:
            logits = cache.start(prompts)
        except _NO_ROWS:
            return _by_transformers(model, tokenizer, prompts, most)
    while rows:
        tokens = logits.argmax(-1).tolist()
        for row, token in zip(rows, tokens, strict=True):
            said[row].append(token)
        full = len(said[rows[0]]) >= most
        going = [k for k, x in enumerate(tokens) if not full and x != tokenizer.eos_token_id]
        if len(going) < len(rows):
            cache.keep(going)
            rows, tokens = [rows[k] for k in going], [tokens[k] for k in going]
        if rows:
            with _each(model, [factors[row] for row in rows]):
                logits = cache.step(tokens)
    return [tuple(answer) for answer in said]


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
    said = dict(generate(model, tokenizer, prompts, [placed] * len(prompts), most, WRITE_TOKENS))
    return [Encoded(prompt.prompt, said[i]) for i, prompt in enumerate(prompts)]
