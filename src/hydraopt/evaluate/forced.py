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
from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.logits import logits_of
from hydraopt.basemodel.model import Placed, attached, hidden_states
from hydraopt.harm.divergence import divergence

__all__ = ["Forced", "Numbers", "forced"]

_TOKENS: Final = 32
"""Number of tokens whose distributions over the vocabulary are compared at a time."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Forced:
    """Teacher-forced results of one set of factors on targets.

    loss, divergence, agreement: (targets,), as in :class:`hydraopt.evaluate.run.Scores`.
    changed: (targets,), 1 where the reference ranks another token first anywhere.
    written: of each target, its tokens up to the first that greedy decoding would not write, which
        is replaced by the token that it would write; the whole target if there is no such token.
    """

    loss: Numbers
    divergence: Numbers
    agreement: Numbers
    changed: Numbers
    written: list[tuple[int, ...]]

    @classmethod
    def nothing(cls, count: int) -> Forced:
        """Return zeros for so many targets."""
        loss, divergence, agreement, changed = np.zeros((4, count))
        return cls(loss, divergence, agreement, changed, [()] * count)

    def only(self, where: Sequence[int]) -> Forced:
        """Return the results on some targets."""
        some = list(where)
        return Forced(
            self.loss[some],
            self.divergence[some],
            self.agreement[some],
            self.changed[some],
            [self.written[i] for i in some],
        )


@torch.inference_mode()
def forced(
    model: Any,
    items: Sequence[Encoded],
    sets: Mapping[str, Placed],
    reference: str | None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Forced]:
    """Return every set's results on the items' targets; the reference, if any, is the first set.

    progress: called with the number of batches done and of all batches.
    """
    made = {name: Forced.nothing(len(items)) for name in sets}
    batches = batches_of(model, items)
    for number, (chunk, batch) in enumerate(batches):
        if progress:
            progress(number, len(batches))
        rows = np.array(chunk)[batch.row.numpy()]
        theirs: tuple[Tensor, Tensor] | None = None  # the reference's log probabilities, and best
        for name, placed in sets.items():
            with attached(model, placed):
                hidden = hidden_states(model, batch)
            logits = logits_of(model, hidden, placed)
            total, best = logits.logsumexp(-1), logits.argmax(-1)
            same, kl = torch.ones_like(total), torch.zeros_like(total)
            if theirs is not None:
                same, kl = (theirs[1] == best).float(), _divergence(theirs[0], logits, total)
            elif name == reference:
                theirs = logits - total[:, None], best
            one, loss = made[name], total - logits.gather(1, batch.labels[:, None])[:, 0]
            for sums, column in ((one.loss, loss), (one.divergence, kl), (one.agreement, same)):
                np.add.at(sums, rows, column.double().numpy())
            one.changed[rows[same.numpy() == 0]] = 1
            start = 0
            for i in chunk:
                stop = start + len(items[i].target)
                one.written[i] = _written(best[start:stop].tolist(), items[i].target)
                start = stop
    return made


def _written(best: Sequence[int], target: tuple[int, ...]) -> tuple[int, ...]:
    """See :class:`Forced`. best: first choices at the target's positions."""
    for k, (mine, wanted) in enumerate(zip(best, target, strict=True)):
        if mine != wanted:
            return (*target[:k], mine)
    return target


def _divergence(logs: Tensor, logits: Tensor, total: Tensor) -> Tensor:
    """Return KL(reference || this) in nats, (N,), in float64; few tokens at a time.

    logs (N, vocabulary): logarithms of the reference's probabilities.
    """
    pieces = (slice(start, start + _TOKENS) for start in range(0, len(logits), _TOKENS))
    return torch.cat([divergence(logs[x], logits[x] - total[x, None]) for x in pieces])
