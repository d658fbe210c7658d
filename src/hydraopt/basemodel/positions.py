"""Limits of the texts that a base model reads: its token ids and the length of its context.

A tokenizer may have more tokens than the model embeds, where chat tokens were added to the
tokenizer only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hydraopt.basemodel.encoding import Encoded
from hydraopt.errors import UsageError, explain

__all__ = ["check_prompt", "limits_within", "positions_of"]

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
