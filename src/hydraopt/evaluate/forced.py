"""Run several sets of factors on the same targets by teacher forcing, one pass for each set.

All sets get the same batches. In each batch the reference is first, and the next-token
distributions of the other sets are compared with its own at once, because the distributions of all
rows would not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydraopt.basemodel.batches import batches_of
from hydraopt.basemodel.encoding import Batch, Encoded
from hydraopt.basemodel.logits import logits_of
from hydraopt.basemodel.model import Placed, attached, hidden_states
from hydraopt.harm.divergence import divergence

__all__ = ["ForcedRow", "Numbers", "forced"]

_TOKENS: Final = 32
"""Number of tokens whose distributions over the vocabulary are compared at a time."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class ForcedRow:
    """Teacher-forced result of one set of factors on one target.

    loss, tokens, divergence, agreement: as in :class:`hydraopt.evaluate.run.Scores`.
    written: the target's tokens up to the first that greedy decoding would not write, which is
        replaced by the token that it would write; the whole target if there is no such token.
    """

    loss: float
    tokens: float
    divergence: float
    agreement: float
    written: tuple[int, ...]


@torch.inference_mode()
def forced(
    model: Any,
    items: Sequence[Encoded],
    sets: Mapping[str, Placed],
    reference: str | None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[ForcedRow]]:
    """Return every set's result on each item's target; the reference, if any, is the first set.

    progress: called with the number of batches done and of all batches.
    """
    made: dict[str, dict[int, ForcedRow]] = {name: {} for name in sets}
    batches = batches_of(model, items)
    for number, (chunk, batch) in enumerate(batches):
        if progress:
            progress(number, len(batches))
        rows = _read_batch(model, batch, [items[i] for i in chunk], sets, reference)
        for name, of_rows in made.items():
            of_rows.update(zip(chunk, rows[name], strict=True))
    return {name: [of_rows[i] for i in range(len(items))] for name, of_rows in made.items()}


def _read_batch(
    model: Any,
    batch: Batch,
    items: Sequence[Encoded],
    sets: Mapping[str, Placed],
    reference: str | None,
) -> dict[str, tuple[ForcedRow, ...]]:
    """Return the results of one batch, whose rows are these items."""
    made = {}
    theirs: tuple[Tensor, Tensor] | None = None  # the reference's log probabilities, and best
    for name, placed in sets.items():
        logits = _logits(model, placed, batch)
        total = logits.logsumexp(-1)
        best = logits.argmax(-1)
        columns = {
            "loss": total - logits.gather(1, batch.labels[:, None])[:, 0],
            "tokens": torch.ones_like(total),
            "agreement": torch.ones_like(total),
            "divergence": torch.zeros_like(total),
        }
        if theirs is not None:
            columns["agreement"] = (theirs[1] == best).float()
            columns["divergence"] = _divergence(theirs[0], logits, total)
        elif name == reference:
            theirs = logits - total[:, None], best
        rows = batch.row.numpy()
        sums = {
            key: np.bincount(rows, column.double().numpy(), len(items)).tolist()
            for key, column in columns.items()
        }
        written, start = [], 0
        for item in items:
            stop = start + len(item.target)
            written.append(_written(best[start:stop].tolist(), item.target))
            start = stop
        made[name] = tuple(
            ForcedRow(**{key: column[i] for key, column in sums.items()}, written=written[i])
            for i in range(len(items))
        )
    return made


def _written(best: Sequence[int], target: tuple[int, ...]) -> tuple[int, ...]:
    """See :class:`ForcedRow`. best: first choices at the target's positions."""
    for k, (mine, wanted) in enumerate(zip(best, target, strict=True)):
        if mine != wanted:
            return (*target[:k], mine)
    return target


def _logits(model: Any, placed: Placed, batch: Batch) -> Tensor:
    """Return the logits at the target positions, (N, vocabulary)."""
    with attached(model, placed):
        hidden = hidden_states(model, batch)
    return logits_of(model, hidden, placed)


def _divergence(logs: Tensor, logits: Tensor, total: Tensor) -> Tensor:
    """Return KL(reference || this) in nats, (N,), in float64; few tokens at a time.

    logs (N, vocabulary): logarithms of the reference's probabilities.
    """
    pieces = (slice(start, start + _TOKENS) for start in range(0, len(logits), _TOKENS))
    return torch.cat([divergence(logs[x], logits[x] - total[x, None]) for x in pieces])
