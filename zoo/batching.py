"""From rows to padded batches, and from batches to logits at the target positions only.

Token layout of one row (T marks the positions whose logits are computed, each predicts the next):

    BOS instruction \\n input \\n =>  " output" ... EOS
                                 T   T          (nothing is predicted from EOS)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from zoo.tasks import Row


@dataclass(frozen=True)
class Encoded:
    """Token ids of one row; the target ends with EOS."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    def __len__(self) -> int:
        """Number of tokens, prompt and target."""
        return len(self.prompt) + len(self.target)


def prompt_text(instruction: str, text: str) -> str:
    """The prompt of one input, without BOS."""
    return f"{instruction}\n{text}\n=>"


def encode(
    tokenizer: Any, rows: Sequence[Row], instruction: str, max_tokens: int | None = None
) -> list[Encoded]:
    """The rows as token ids; rows of more than `max_tokens`, prompt and target, are left out.

    Prompt and target are tokenised apart: at inference the model sees the prompt's tokens alone, so
    a token that spans the border would never occur there.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    encoded = []
    for row in rows:
        prompt = tokenizer(prompt_text(instruction, row["input"]), add_special_tokens=False)
        target = tokenizer(" " + row["output"], add_special_tokens=False)
        item = Encoded((bos, *prompt["input_ids"]), (*target["input_ids"], eos))
        if max_tokens is None or len(item) <= max_tokens:
            encoded.append(item)
    return encoded


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to one length.

    ids: (rows, length).  where: (N,) index of each target's predicting position in ids.flatten().
    labels: (N,) the target tokens.  row: (N,) the row in the batch that each of them belongs to.
    """

    ids: Tensor
    where: Tensor
    labels: Tensor
    row: Tensor


def collate(items: Sequence[Encoded]) -> Batch:
    """One batch of the items; padding is id 0, which no target position ever sees."""
    length = max(len(item) for item in items) - 1  # nothing is predicted from the last token
    ids = torch.zeros(len(items), length, dtype=torch.long)
    where: list[int] = []
    labels: list[int] = []
    row: list[int] = []
    for index, item in enumerate(items):
        tokens = (item.prompt + item.target)[:-1]
        ids[index, : len(tokens)] = torch.tensor(tokens)
        first = index * length + len(item.prompt) - 1
        where += range(first, first + len(item.target))
        labels += item.target
        row += [index] * len(item.target)
    return Batch(ids, torch.tensor(where), torch.tensor(labels), torch.tensor(row))


def target_logits(model: Any, batch: Batch) -> Tensor:
    """Float32 logits (N, vocabulary) at the target positions of the batch.

    The output layer runs on these positions alone; for small models with a large vocabulary it
    costs as much as all the rest.  No attention mask is passed: with causal attention, padding on
    the right cannot reach a real token.
    """
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    logits: Tensor = model.lm_head(hidden.flatten(0, 1)[batch.where]).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def batches_by_tokens(items: Sequence[Encoded], tokens: int) -> Iterator[list[int]]:
    """Indices of the items, sorted by length, in batches of at most `tokens` padded tokens."""
    chunk: list[int] = []
    for index in sorted(range(len(items)), key=lambda i: len(items[i])):
        if chunk and (len(chunk) + 1) * len(items[index]) > tokens:
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk


def training_batches(items: Sequence[Encoded], size: int, rng: Random) -> Iterator[list[Encoded]]:
    """One epoch in batches of `size`, shuffled, rows of similar length together.

    Rows are shuffled, sorted by length inside windows of 8 batches, and the batches shuffled again:
    little padding, yet batches differ from epoch to epoch. A last incomplete batch is left out.
    """
    order = list(items)
    rng.shuffle(order)
    window = 8 * size
    groups = []
    for start in range(0, len(order), window):
        chunk = sorted(order[start : start + window], key=len)
        groups += [chunk[i : i + size] for i in range(0, len(chunk) - size + 1, size)]
    rng.shuffle(groups)
    yield from groups
