"""Preferences of adapters and bundles on probes, from log-likelihoods of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.likelihoods import likelihoods
from hydraopt.basemodel.model import TaskFactors, place
from hydraopt.basemodel.positions import positions_of
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.forced import Numbers
from hydraopt.evaluate.run import check_finite
from hydraopt.probes.items import ProbeItem, encoded
from hydraopt.probes.measures import Preferences, probe_measures
from hydraopt.progress import Progress

__all__ = ["preferences"]


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
