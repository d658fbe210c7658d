"""From rows to padded batches, within the limits of the base model.

A tokenizer may have more tokens than the model embeds, where chat tokens were added to the
tokenizer only.

Token layout of one row (T marks the positions whose logits are computed, each predicts the next):

    BOS instruction \n input \n =>  " output" ... EOS
                                 T   T          (nothing is predicted from EOS)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from hydraopt.errors import UsageError, explain

_BEHIND_PADDING: Final = ("roberta", "camembert")
"""Model types whose first positions are those of padding, and are counted by the config."""


def positions_of(model: Any) -> int | None:
    """Return the maximum number of tokens of a text that a model's config allows; None without.

    Many models fail or write nonsense beyond it.
    """
    config = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return None
    if any(name in config.model_type for name in _BEHIND_PADDING):
        return most - int(config.pad_token_id) - 1
    return most


def limits_within(model: Any, items: Sequence[Encoded], limits: Sequence[int]) -> list[int]:
    """Return the limits on the tokens of answers, lowered to what the context has room for.

    Raises UsageError as :func:`check_prompt`.
    """
    for number, item in enumerate(items, 1):
        check_prompt(model, item, number)
    most = positions_of(model)
    if most is None:
        return list(limits)
    # The last token of an answer is not read.
    return [
        min(limit, most - len(item.prompt) + 1) for item, limit in zip(items, limits, strict=True)
    ]


def check_prompt(
    model: Any, item: Encoded, number: int, text: str = "", task: str | None = None
) -> None:
    """Raise UsageError for a prompt that the model cannot read.

    Such a prompt has no token, too many, or a token that the model does not embed.

    number: of the prompt, from 1.
    text, task: the prompt, and the task that it belongs to.
    """
    tokens, most = len(item.prompt), positions_of(model)
    of = f" of {text[:40]!r}" if text else ""
    if not tokens or (most is not None and tokens > most):
        raise UsageError(
            explain(
                f"prompt {number} is {'longer than the base model reads' if tokens else 'empty'}",
                adapter=task,
                got=f"{tokens} tokens{of}",
                expected="one at least" if most is None else f"1 to {most}",
                do="Shorten it, or leave it out" if tokens else "Leave it out",
            )
        )
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if known is not None and max(item.prompt) >= known:
        raise UsageError(
            explain(
                f"prompt {number} has a token that the base model does not embed",
                adapter=task,
                got=f"token {max(item.prompt)}{of}",
                expected=f"less than {known}",
                do="Give the tokenizer that the base model was trained with",
            )
        )


ROW_END: Final = "\n=>"
"""End of the prompt of a task's row."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one row; the target of a whole answer ends with EOS."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of tokens of prompt and target."""
        return len(self.prompt) + len(self.target)


class RowPrompt(str):
    """Prompt of a task's row, without BOS.

    BOS belongs before it, whatever the tokenizer does by itself.
    """

    __slots__ = ()


def prompt_text(instruction: str, text: str) -> RowPrompt:
    """Return the prompt of one input."""
    return RowPrompt(f"{instruction}\n{text}{ROW_END}")


def encode_prompt(tokenizer: Any, text: str) -> Encoded:
    """Encode a prompt as token ids.

    A row follows BOS, if there is one. Any other text follows what the tokenizer begins with by
    itself, which is how adapters are trained and served elsewhere. A text of a chat template may
    begin with BOS already; then none is added.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] == [bos]:
        return Encoded(tuple(ids), ())
    if isinstance(text, RowPrompt):
        return Encoded((*(() if bos is None else (bos,)), *ids), ())
    whole = tokenizer(text)["input_ids"]
    places = range(len(whole) - len(ids) + 1)
    start: list[int] = next((whole[:k] for k in places if whole[k : k + len(ids)] == ids), [])
    return Encoded((*start, *ids), ())


def encode_row(tokenizer: Any, instruction: str, text: str, output: str) -> Encoded:
    """Encode one row as token ids; EOS ends the target.

    Prompt and target are tokenised apart: at inference the model sees the prompt's tokens alone, so
    a token that spans the border would never occur there. A tokenizer without BOS (Qwen's) starts
    with the prompt. Raises UsageError for a tokenizer without EOS.
    """
    prompt = encode_prompt(tokenizer, prompt_text(instruction, text)).prompt
    target = tokenizer(" " + output, add_special_tokens=False)["input_ids"]
    return Encoded(prompt, (*target, _eos(tokenizer)))


def _eos(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise UsageError(
            explain(
                "nothing can end an answer",
                got="a tokenizer without EOS",
                expected="EOS after each answer",
                do="Name it in tokenizer_config.json of the base",
            )
        )
    return int(tokenizer.eos_token_id)


@dataclass(frozen=True)
class Batch:
    """Texts padded on the right to one length: a row each, or several in a row that begin alike.

    ids: (rows, length).  where: (N,) index of each target's predicting position in ids.flatten().
    labels: (N,) the target tokens.  row: (N,) the text of the batch that each of them belongs to.
    parents: (rows, length), of rows of several texts, the token before each in its own text, -1
    for none; None where rows are texts.
    """

    ids: Tensor
    where: Tensor
    labels: Tensor
    row: Tensor
    parents: Tensor | None = None


def collate(items: Sequence[Encoded]) -> Batch:
    """Return one batch of the items; padding is id 0, which no target position ever sees."""
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
    return Batch(ids, *(torch.tensor(x, dtype=torch.long) for x in (where, labels, row)))


def batches_by_tokens(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield the indices sorted by length, in batches of at most ``tokens`` padded tokens."""
    chunk: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if chunk and (len(chunk) + 1) * lengths[index] > tokens:
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk
