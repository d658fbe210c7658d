"""Log-likelihoods of texts under a base model with factors on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from hydraopt.basemodel.batches import batches_of
from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.logits import logits_of
from hydraopt.basemodel.model import Placed, attached, hidden_states

__all__ = ["likelihoods"]

_TOKENS: Final = 256
"""Tokens whose logits are in memory at once: with a large vocabulary they are most of it."""


@torch.inference_mode()
def likelihoods(
    model: Any,
    texts: Sequence[Encoded],
    placed: Placed,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Return log P(target | prompt) of each text in nats, (texts,).

    placed: the factors on the model. progress: called with the number of batches done and of all
        batches.

    The same texts give the same numbers for the same factors.
    """
    sums, batches = np.zeros(len(texts)), batches_of(model, texts)
    for number, (chunk, batch) in enumerate(batches):
        if progress:
            progress(number, len(batches))
        with attached(model, placed):
            hidden = hidden_states(model, batch)
        rows = np.array(chunk)[batch.row.cpu().numpy()]
        for start in range(0, len(hidden), _TOKENS):
            some = slice(start, start + _TOKENS)
            logits = logits_of(model, hidden[some], placed)
            logs = logits.gather(1, batch.labels[some, None])[:, 0] - logits.logsumexp(-1)
            np.add.at(sums, rows[some], logs.double().cpu().numpy())
    return sums
