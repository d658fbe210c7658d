"""How many positions a base model has: some learn them or keep a table, and a text ends there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from torch import nn

from hydraopt.basemodel.encoding import Encoded
from hydraopt.errors import UsageError, explain

__all__ = ["check_prompt", "limits_within", "positions_of", "stated_by"]

_NAMES: Final = ("pos", "wpe")
"""Of the names that tables of positions have."""


def positions_of(model: Any) -> int | None:
    """Tokens that a text may have, of a model with a table of positions, learned (GPT-2, OPT) or
    computed (GPT-J); None where positions are computed as they come, or nothing is said of them."""
    stated = stated_by(model)
    return next((count for rows, count in _tables(model) if rows == stated), None)


def stated_by(model: Any) -> int | None:
    """Tokens of a text that the model's config speaks of; None where it says nothing of use."""
    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return stated if type(stated) is int and stated >= 1 else None


def _tables(model: Any) -> Iterator[tuple[int, int]]:
    """(rows, positions) of each table. OPT's first rows are none of the text's, and RoBERTa counts
    from behind the place of padding."""
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
    """The limits on the tokens of answers, or less where the model has no positions for so many.

    Raises UsageError as :func:`check_prompt`.
    """
    most = positions_of(model)
    for number, item in enumerate(items, 1):
        check_prompt(item, most, number)
    if most is None:
        return list(limits)
    # The last token of an answer is not read.
    return [
        min(limit, most - len(item.prompt) + 1) for item, limit in zip(items, limits, strict=True)
    ]


def check_prompt(
    item: Encoded, most: int | None, number: int, text: str = "", task: str | None = None
) -> None:
    """Raise UsageError for a prompt without a token, or of more than ``most``.

    number: of the prompt, from 1. text, task: what it says, and whose it is.
    """
    tokens = len(item.prompt)
    if tokens and (most is None or tokens <= most):
        return
    raise UsageError(
        explain(
            f"prompt {number} is {'longer than the base model reads' if tokens else 'empty'}",
            adapter=task,
            got=f"{tokens} tokens" + (f" of {text[:40]!r}" if text else ""),
            expected="one at least" if most is None else f"1 to {most}",
            do="Shorten it, or leave it out" if tokens else "Leave it out",
        )
    )
