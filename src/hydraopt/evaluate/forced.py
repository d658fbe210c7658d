"""Teacher forcing: what several sets of factors make of the same targets, in one pass of each.

Every set sees the same batches. The reference comes first, and the others' next-token distributions
are compared with its own while they are there: a vocabulary's worth of them for all rows would not
fit in memory, and is not computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydraopt.basemodel.batches import batches_of
from hydraopt.basemodel.encoding import Batch, Encoded
from hydraopt.basemodel.memory import JsonCache, are_answers, key_of
from hydraopt.basemodel.model import Placed, attached, hidden_states, logits_of
from hydraopt.harm.divergence import divergence

__all__ = ["Forced", "Numbers", "forced", "key_of_rows", "read_batch"]

_TOKENS: Final = 32
"""Tokens whose distributions are compared at a time: 256,000 numbers each on a large vocabulary."""
_SUMS = ("loss", "tokens", "divergence", "agreement")

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Forced:
    """Teacher-forced results of one set, row by row, (rows,) each.

    loss, tokens, divergence, agreement: as in :class:`hydraopt.evaluate.run.Scores`.
    written: the target's tokens up to the first that greedy decoding would not write, which is
        replaced by the token that it would write; the whole target if there is no such token.
    """

    loss: Numbers
    tokens: Numbers
    divergence: Numbers
    agreement: Numbers
    written: list[tuple[int, ...]]

    @classmethod
    def empty(cls, rows: int) -> Forced:
        """Return zeros, to be filled."""
        loss, tokens, divergence, agreement = np.zeros((4, rows))
        return cls(loss, tokens, divergence, agreement, [()] * rows)

    @classmethod
    def from_json(cls, value: Any, rows: int) -> Forced | None:
        """Read the output of :meth:`to_json` for this number of rows; None for anything else."""
        if not isinstance(value, dict) or not are_answers(value.get("written"), rows):
            return None
        sums = {key: value.get(key) for key in _SUMS}
        if not all(_are_numbers(x, rows) for x in sums.values()):
            return None
        written = [tuple(x) for x in value["written"]]
        return cls(**{key: np.array(x, np.float64) for key, x in sums.items()}, written=written)

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON values."""
        sums = {key: getattr(self, key).tolist() for key in _SUMS}
        return {**sums, "written": [list(x) for x in self.written]}

    def rows(self, some: slice) -> Forced:
        """Return the results of these rows alone."""
        return Forced(
            self.loss[some],
            self.tokens[some],
            self.divergence[some],
            self.agreement[some],
            self.written[some],
        )

    def fill(self, where: Sequence[int], other: Forced) -> None:
        """Make the rows ``where`` those of ``other``, in its order."""
        for key in _SUMS:
            getattr(self, key)[list(where)] = getattr(other, key)
        for i, tokens in zip(where, other.written, strict=True):
            self.written[i] = tokens

    def updated(self, where: Sequence[int], other: Forced) -> Forced:
        """Return a copy whose rows ``where`` are replaced by those of ``other``, in its order."""
        sums = {key: getattr(self, key).copy() for key in _SUMS}
        made = Forced(**sums, written=list(self.written))
        made.fill(where, other)
        return made

    def exact(self, items: Sequence[Encoded]) -> Numbers:
        """Return 1 where greedy decoding writes the item's target, (rows,)."""
        pairs = zip(self.written, items, strict=True)
        return np.array([float(mine == item.target) for mine, item in pairs])


@torch.inference_mode()
def forced(
    model: Any,
    items: Sequence[Encoded],
    sets: Mapping[str, Placed],
    reference: str | None,
    progress: Callable[[int, int], None] | None = None,
    known: JsonCache | None = None,
) -> dict[str, Forced]:
    """Return every set's results on the items' targets; the reference, if any, is the first set.

    progress: called with the number of batches done and of all batches.
    known: cache of each batch.
    """
    made = {name: Forced.empty(len(items)) for name in sets}
    batches = batches_of(model, items)
    for number, (chunk, batch) in enumerate(batches):
        if progress:
            progress(number, len(batches))
        some = [items[i] for i in chunk]
        told = _recalled(known, some, sets)
        if told is None:
            told = read_batch(model, batch, some, sets, reference)
            if known:
                kept = {name: one.to_json() for name, one in told.items()}
                known.put(key_of_rows(f"forced {list(sets)}", some), kept)
        for name, mine in made.items():
            mine.fill(chunk, told[name])
    return made


def key_of_rows(what: str, items: Sequence[Encoded]) -> str:
    """Return the key under which a cache of one task has a value of these rows."""
    return key_of([what, *(f"{item.prompt} {item.target}" for item in items)])


def _recalled(
    known: JsonCache | None, items: Sequence[Encoded], sets: Mapping[str, Placed]
) -> dict[str, Forced] | None:
    """Return the cached results of a batch; None unless they exist for all sets."""
    value = known.get(key_of_rows(f"forced {list(sets)}", items)) if known else None
    if not isinstance(value, dict):
        return None
    told = {name: Forced.from_json(value.get(name), len(items)) for name in sets}
    whole = {name: one for name, one in told.items() if one is not None}
    return whole if len(whole) == len(sets) else None


def read_batch(
    model: Any,
    batch: Batch,
    items: Sequence[Encoded],
    sets: Mapping[str, Placed],
    reference: str | None,
) -> dict[str, Forced]:
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
        sums: dict[str, Numbers] = {
            key: np.bincount(rows, column.double().numpy(), len(items)).astype(np.float64)
            for key, column in columns.items()
        }
        written, start = [], 0
        for item in items:
            stop = start + len(item.target)
            written.append(_written(best[start:stop].tolist(), item.target))
            start = stop
        made[name] = Forced(**sums, written=written)
    return made


def _are_numbers(value: Any, rows: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == rows
        and all(type(x) is float and math.isfinite(x) for x in value)
    )


def _written(best: Sequence[int], target: tuple[int, ...]) -> tuple[int, ...]:
    """See :class:`Forced`. best: first choices at the target's positions."""
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
