"""Limits on the length of rows: the requested one, and that of the base model's positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hydraopt.errors import UsageError, explain

__all__ = ["sifted"]


def sifted(
    where: str, lengths: Sequence[int], most: int | None, positions: int | None
) -> tuple[list[int], dict[str, int]]:
    """Return the indices of the rows that are short enough and have a token.

    lengths: tokens of each row.
    most: requested maximum, None for no limit.
    positions: size of the base's table of positions, None without one.

    Returns also the number of other rows by reason. Raises UsageError that names ``where`` if no
    row is left.
    """
    reasons = [_reason(length, most, positions) for length in lengths]
    kept = [i for i, reason in enumerate(reasons) if not reason]
    counts = Counter(filter(None, reasons))
    if not kept:
        got = [f"{count} {reason}" for reason, count in counts.items()]
        shortest = min(filter(None, lengths), default=0)
        limit = min((x for x in (most, positions) if x is not None), default=0)
        raise UsageError(
            explain(
                f"no row of {where} is short enough and has a token",
                got=", ".join(got) + (f"; {shortest} tokens at least" if shortest else ""),
                expected=f"at most {limit} tokens" if shortest else "a text that is not empty",
            )
        )
    return kept, dict(counts)


def _reason(length: int, most: int | None, positions: int | None) -> str:
    """Return the reason to skip a row with this number of tokens; empty if it is kept."""
    if not length:
        return "without a token"
    if most is not None and length > most:
        return "longer than --max-tokens"
    if positions is not None and length > positions:
        return f"longer than the base's context of {positions} tokens"
    return ""
