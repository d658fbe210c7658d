"""What a base model with factors on it writes, greedily."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from hydraopt.basemodel.encoding import Encoded, batches_by_tokens
from hydraopt.basemodel.model import (
    BATCH_TOKENS,
    Placed,
    TaskFactors,
    attached_in_blocks,
    contiguous_head,
    place,
)

__all__ = ["WRITE_TOKENS", "answered", "generate"]

WRITE_TOKENS = 16 * BATCH_TOKENS
"""Padded tokens of a batch for writing, where every step computes one token of each row."""


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
    included, with which an answer ends unless it was cut. Prompts are padded on the left, so that
    answers start alike.
    """
    eos = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
    lengths = [len(item.prompt) + most for item in items]
    for mixed in batches_by_tokens(lengths, batch_tokens):
        chunk = sorted(mixed, key=lambda i: id(factors[i]))
        runs = itertools.groupby((factors[i] for i in chunk), key=id)
        blocks = [(run[0], len(run)) for run in (list(run) for _, run in runs)]
        longest = max(len(items[i].prompt) for i in chunk)
        ids = torch.full((len(chunk), longest), pad)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chunk):
            prompt = items[i].prompt
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        with attached_in_blocks(model, blocks), contiguous_head(model):
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=most,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=pad,
                eos_token_id=eos,
            )
        for row, i in enumerate(chunk):
            answer = out[row, longest:].tolist()
            yield i, tuple(answer[: answer.index(eos) + 1] if eos in answer else answer)


def answered(
    model: Any, tokenizer: Any, prompts: Sequence[Encoded], factors: TaskFactors, most: int = 48
) -> list[Encoded]:
    """The prompts with what the adapted model answers, greedily: unlabelled inputs are enough."""
    placed = place(model, factors)
    said = dict(generate(model, tokenizer, prompts, [placed] * len(prompts), most, WRITE_TOKENS))
    return [Encoded(prompt.prompt, said[i]) for i, prompt in enumerate(prompts)]
