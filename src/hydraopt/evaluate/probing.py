"""Probes on adapters and bundles: asked once, and remembered.

Texts are asked in blocks. A block's log-likelihoods are kept by what they depend on (the base, the
factors, the tokens), so a run that was stopped goes on where it was, and a larger sample asks only
what it adds: see :mod:`hydraopt.basemodel.memory`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.likelihood import likelihoods, shares_beginnings
from hydraopt.basemodel.loading import base_hash
from hydraopt.basemodel.memory import JsonCache, key_of
from hydraopt.basemodel.model import Placed, TaskFactors, factors_key, place
from hydraopt.basemodel.positions import positions_of
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.skipped import check_finite
from hydraopt.files.cache import cache_root
from hydraopt.probes.items import encoded
from hydraopt.probes.measures import Preferences, probe_measures
from hydraopt.probes.reading import ProbeSet
from hydraopt.progress import Progress
from hydraopt.sources import source_hash

__all__ = ["Asker", "Prober"]

_DECIDE: Final = ("basemodel", "evaluate", "harm", "linalg", "probes")
"""Packages whose code decides which numbers items get."""
BLOCK: Final = 32
"""Items that are asked together. A larger sample begins with the blocks of a smaller one."""

Numbers = NDArray[np.float64]
Groups = Sequence[Sequence[Encoded]]


class Asker:
    """Log-likelihoods of texts under one model with any factors."""

    def __init__(self, model: Any, tokenizer: Any, base: str, products: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._memory = JsonCache(cache_root() / "probes")
        self._weights = base_hash(base)
        self._about = [source_hash(*_DECIDE), products, str(self._weights)]
        self._shared: bool | None = None
        self._most = positions_of(model)

    def ask(self, placed: Placed, mine: str, groups: Groups) -> list[Numbers]:
        """Return log P of each text of each group in nats, to six places.

        placed: the factors; mine: their hash. Raises UsageError for a text that the model has no
        positions for.
        """
        _check_lengths(groups, self._most)
        asked = [[[x.prompt, x.target] for x in group] for group in groups]
        key = key_of([*self._about, mine, json.dumps(asked)])
        # Without a hash of the base nothing that is remembered can be trusted.
        kept = self._weights is not None
        known = _read(self._memory.get(key), groups) if kept else None
        if known is None:
            if self._shared is None:
                self._shared = shares_beginnings(self.model, groups)
            # Where no group shows it, none needs a mask.
            shared = self._shared is not False
            exact = likelihoods(self.model, groups, placed, shared=shared)
            known = [np.round(row, 6) for row in exact]
            if kept and all(np.isfinite(row).all() for row in known):
                self._memory.put(key, [row.tolist() for row in known])
        return known


def _check_lengths(groups: Groups, most: int | None) -> None:
    """Raise UsageError for a text of more tokens than ``most``."""
    longest = max((len(item) for group in groups for item in group), default=0)
    if most is not None and longest > most:
        raise UsageError(
            explain(
                "a text is longer than the base model reads",
                got=f"{longest} tokens",
                expected=f"at most {most}",
                do="Shorten the items of the probe, or leave them out",
            )
        )


def _read(said: Any, groups: Groups) -> list[Numbers] | None:
    """Return the cached scores if they fit the groups, otherwise None."""
    if not isinstance(said, list) or len(said) != len(groups):
        return None
    rows = []
    for row, group in zip(said, groups, strict=True):
        right = isinstance(row, list) and len(row) == len(group)
        if not right or not all(isinstance(x, float | int) and math.isfinite(x) for x in row):
            return None
        rows.append(np.array(row, np.float64))
    return rows


class Prober:
    """Measurement of all probes."""

    def __init__(self, asker: Asker, probes: ProbeSet) -> None:
        self._asker = asker
        self._probes = probes
        self._groups = {
            probe: [encoded(item, asker.tokenizer) for item in items]
            for probe, items in probes.items.items()
        }

    def base(self, progress: Progress | None = None) -> Preferences:
        """Return the base's own preferences, by probe and group."""
        return self.of_sets("base", {"base": {}}, None, progress)["base"]

    def of_sets(
        self,
        name: str,
        sets: Mapping[str, TaskFactors],
        reference: str | None,
        progress: Progress | None = None,
    ) -> dict[str, Preferences]:
        """Measure, by set, the preferences by probe and group, and the changes to the reference.

        Raises NoNumbersError for logits that are no numbers. name: of the adapter.
        """
        scores: dict[str, dict[str, list[Numbers]]] = {}
        for number, (label, factors) in enumerate(sets.items()):
            bar = _bar(progress, name, number, len(sets))
            scores[label] = self._scores(factors, bar)
            check_finite({label: [x for rows in scores[label].values() for x in rows]}, name)
        known = scores.get(reference) if reference is not None else None
        return {
            label: probe_measures(
                self._probes.items, scores[label], None if label == reference else known
            )
            for label in sets
        }

    def _scores(
        self, factors: TaskFactors, bar: Callable[[str, int, int], None]
    ) -> dict[str, list[Numbers]]:
        placed, mine = place(self._asker.model, factors), factors_key(factors)
        made: dict[str, list[Numbers]] = {probe: [] for probe in self._groups}
        blocks = [
            (x, i) for x, groups in self._groups.items() for i in range(0, len(groups), BLOCK)
        ]
        for number, (probe, start) in enumerate(blocks):
            bar(probe, number, len(blocks))
            some = slice(start, start + BLOCK)
            made[probe] += self._asker.ask(placed, mine, self._groups[probe][some])
        return made


def _bar(
    progress: Progress | None, name: str, number: int, sets: int
) -> Callable[[str, int, int], None]:
    """Return a progress callback over all sets, in thousandths."""

    def move(what: str, done: int, total: int) -> None:
        if progress:
            progress(f"{name} {what}", round(1000 * (number + done / max(total, 1))), 1000 * sets)

    return move
