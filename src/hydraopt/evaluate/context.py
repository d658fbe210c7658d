"""Limits on the length of texts: the requested one, and that of the base model's positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydraopt.basemodel.positions import positions_of, stated_by
from hydraopt.errors import UsageError, explain

__all__ = ["Context", "context_of", "sifted"]


@dataclass(frozen=True)
class Context:
    """Limits on the tokens of a text, None for no limit.

    most: maximum number, where the base has a table of positions; a longer text has no positions.
    stated: number in the config, where positions are computed on demand; longer texts are read, but
        the model was not trained on them.
    """

    most: int | None = None
    stated: int | None = None

    @property
    def words(self) -> str:
        """Reason for leaving out a text."""
        return f"longer than the base's context of {self.most} tokens"


def context_of(model: Any) -> Context:
    """Return the context of a model of transformers."""
    most = positions_of(model)
    return Context(stated=stated_by(model)) if most is None else Context(most)


def sifted(
    where: str, lengths: Sequence[int], most: int | None, context: Context
) -> tuple[list[int], dict[str, int]]:
    """Return the indices of the rows that are short enough and have a token.

    lengths: tokens of each row. most: what was asked for, None for no limit. Raises UsageError that
    names ``where`` if no row is left.

    Returns also the number of other rows by reason.
    """
    reasons = [_reason(length, most, context) for length in lengths]
    kept = [i for i, reason in enumerate(reasons) if not reason]
    counts = Counter(filter(None, reasons))
    if not kept:
        limits = [x for x in (most, context.most) if x is not None]
        long = max(lengths, default=0) > min(limits, default=0)
        got = [f"{count} {reason}" for reason, count in counts.items()]
        raise UsageError(
            explain(
                f"no row of {where} is short enough" if long else f"no row of {where} has a token",
                got=", ".join(
                    [*got, f"{min(filter(None, lengths))} tokens at least"] if long else got
                ),
                expected=f"at most {min(limits)} tokens" if long else "a text that is not empty",
            )
        )
    return kept, dict(counts)


def _reason(length: int, most: int | None, context: Context) -> str:
    """Return the reason to skip a row with this number of tokens; empty if it is kept."""
    if not length:
        return "without a token"
    if most is not None and length > most:
        return "longer than --max-tokens"
    if context.most is not None and length > context.most:
        return context.words
    return ""
