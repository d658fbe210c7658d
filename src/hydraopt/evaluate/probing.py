"""Preferences of adapters and bundles on probes, from log-likelihoods of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch

from hydraopt.basemodel.batches import batches_of
from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.model import (
    Placed,
    TaskFactors,
    attached,
    hidden_states,
    logits_of,
    place,
)
from hydraopt.basemodel.positions import positions_of
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.forced import Numbers
from hydraopt.evaluate.run import check_finite
from hydraopt.probes.items import ProbeItem, encoded
from hydraopt.probes.measures import Preferences, probe_measures
from hydraopt.progress import Progress

__all__ = ["likelihoods", "preferences"]

_TOKENS: Final = 256
"""Tokens whose logits are in memory at once: with a large vocabulary they are most of it."""


def preferences(
    model: Any,
    tokenizer: Any,
    probes: Mapping[str, Sequence[ProbeItem]],
    sets: Mapping[str, TaskFactors],
    reference: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Preferences]:
    """Return the preferences by set, probe and group, with changes from the reference.

    probes: items by probe. sets: factors by label, none for the base.

    Raises UsageError for a text longer than the model's table of positions, and NotFiniteError for
    logits that are not finite.
    """
    sides = [encoded(item, tokenizer) for items in probes.values() for item in items]
    texts = [text for item in sides for text in item]
    _check_lengths(texts, positions_of(model))
    ends = np.cumsum([len(item) for item in sides])[:-1]
    scores: dict[str, dict[str, list[Numbers]]] = {}
    for label, factors in sets.items():

        def bar(done: int, total: int, label: str = label) -> None:
            if progress:
                progress(f"probes of {label}", done, total)

        found = likelihoods(model, texts, place(model, factors), bar)
        check_finite({label: [found]})
        items = iter(np.split(found, ends))
        scores[label] = {probe: [next(items) for _ in mine] for probe, mine in probes.items()}
    known = scores.get(reference) if reference is not None else None
    return {
        label: probe_measures(probes, scores[label], None if label == reference else known)
        for label in sets
    }


@torch.inference_mode()
def likelihoods(
    model: Any,
    texts: Sequence[Encoded],
    placed: Placed,
    progress: Callable[[int, int], None] | None = None,
) -> Numbers:
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
        rows = np.array(chunk)[batch.row.numpy()]
        for start in range(0, len(hidden), _TOKENS):
            some = slice(start, start + _TOKENS)
            logits = logits_of(model, hidden[some], placed)
            logs = logits.gather(1, batch.labels[some, None])[:, 0] - logits.logsumexp(-1)
            np.add.at(sums, rows[some], logs.double().numpy())
    return sums


def _check_lengths(texts: Sequence[Encoded], most: int | None) -> None:
    """Raise UsageError for a text of more tokens than ``most``."""
    longest = max(map(len, texts), default=0)
    if most is not None and longest > most:
        raise UsageError(
            explain(
                "a text is longer than the base model reads",
                got=f"{longest} tokens",
                expected=f"at most {most}",
                do="Shorten the items of the probe, or leave them out",
            )
        )
