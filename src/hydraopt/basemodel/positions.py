"""Limits of the texts that a base model reads: its token ids and its number of positions.

Some models learn positions or keep a table, which limits the length of a text. A tokenizer may have
more tokens than the model embeds, where chat tokens were added to the tokenizer only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import nn

from hydraopt.basemodel.encoding import Encoded
from hydraopt.errors import UsageError, explain

__all__ = ["Reads", "check_prompt", "limits_within", "positions_of", "reads_of"]

_NAMES: Final = ("pos", "wpe")
"""Parts of the names of position tables."""


def positions_of(model: Any) -> int | None:
    """Return the number of tokens that a table of positions allows in a text.

    The table is learned (GPT-2, OPT) or computed (GPT-J). Returns None for a model that computes
    positions on demand, or does not say.
    """
    stated = _stated(model)
    return next((count for rows, count in _tables(model) if rows == stated), None)


def _stated(model: Any) -> int | None:
    """Return the number of tokens of the longest text that the config of a model allows."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return most if isinstance(most, int) and most > 0 else None


def _tables(model: Any) -> Iterator[tuple[int, int]]:
    """Yield (rows, positions) of each table.

    OPT's first rows are not positions of the text, and RoBERTa counts from behind the padding.
    """
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding) and _is_named(path):
            rows = module.num_embeddings - int(getattr(module, "offset", 0))
            padding = module.padding_idx
            yield rows, rows if padding is None else rows - padding - 1
    for path, table in model.named_buffers():
        if table.dim() == 2 and _is_named(path):
            yield table.shape[0], table.shape[0]


def _is_named(path: str) -> bool:
    return any(name in path.rpartition(".")[2] for name in _NAMES)


def limits_within(model: Any, items: Sequence[Encoded], limits: Sequence[int]) -> list[int]:
    """Return the limits on the tokens of answers, lowered to the positions that the model has.

    A model without a table of positions reads on beyond what its config states.

    Raises UsageError as :func:`check_prompt`.
    """
    reads = replace(reads_of(model), positions=positions_of(model))
    for number, item in enumerate(items, 1):
        check_prompt(item, reads, number)
    most = reads.positions
    if most is None:
        return list(limits)
    # The last token of an answer is not read.
    return [
        min(limit, most - len(item.prompt) + 1) for item, limit in zip(items, limits, strict=True)
    ]


@dataclass(frozen=True)
class Reads:
    """Limits of a text; None where there is no limit.

    positions: maximum number of tokens.
    tokens: number of token ids; each id is below it.
    """

    positions: int | None
    tokens: int | None


def reads_of(model: Any) -> Reads:
    """Return the limits of a model's texts.

    Without a table of positions the config's limit counts, because the time and the memory that a
    text takes grow with its length. Without a plain table of embeddings token ids have no limit.
    """
    positions = positions_of(model) or _stated(model)
    return Reads(positions, getattr(model.get_input_embeddings(), "num_embeddings", None))


def check_prompt(
    item: Encoded, reads: Reads, number: int, text: str = "", task: str | None = None
) -> None:
    """Raise UsageError for a prompt that the model cannot read.

    Such a prompt has no token, too many, or a token that the model does not embed.

    number: of the prompt, from 1.
    text, task: the prompt, and the task that it belongs to.
    """
    tokens, most = len(item.prompt), reads.positions
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
    if reads.tokens is not None and max(item.prompt) >= reads.tokens:
        raise UsageError(
            explain(
                f"prompt {number} has a token that the base model does not embed",
                adapter=task,
                got=f"token {max(item.prompt)}{of}",
                expected=f"less than {reads.tokens}",
                do="Give the tokenizer that the base model was trained with",
            )
        )
