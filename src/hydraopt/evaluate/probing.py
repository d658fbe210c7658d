"""Probes on adapters and bundles: their texts' likelihoods, measured once and remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.basemodel.likelihood import likelihoods, shares_beginnings
from hydraopt.basemodel.memory import Memory, base_hash, key_of
from hydraopt.basemodel.model import TaskFactors, place
from hydraopt.files.cache import cache_root
from hydraopt.probes.items import digest_of, encoded
from hydraopt.probes.measures import probe_measures
from hydraopt.probes.reading import ProbeSet
from hydraopt.progress import Progress

__all__ = ["Prober", "factors_key"]

_VERSION: Final = "probes-1"
"""Of what is remembered: raised where the same items get other numbers."""

BLOCK: Final = 32
"""Items that are asked together. A larger sample begins with the blocks of a smaller one."""

Numbers = NDArray[np.float64]


def factors_key(factors: TaskFactors) -> str:
    """A hash of what is put on the model."""
    parts: list[bytes | str] = []
    for path in sorted(factors):
        parts.append(path)
        parts += [np.ascontiguousarray(x, np.float32).tobytes() for x in factors[path]]
    return key_of(parts)


class Prober:
    """Asks one model all probes with any factors. What was asked before, by this process or by one
    that was stopped, is not asked again: see :mod:`hydraopt.basemodel.memory`."""

    def __init__(
        self, model: Any, tokenizer: Any, base: str, probes: ProbeSet, products: str, seed: int
    ) -> None:
        self._model = model
        self._probes = probes
        self._seed = seed
        self._memory = Memory(cache_root() / "probes")
        self._weights = base_hash(base, model)
        self._about = [_VERSION, products]
        self._groups = {
            probe: [encoded(item, tokenizer) for item in items]
            for probe, items in probes.items.items()
        }
        first = next(iter(self._groups.values()))[0]
        self._shared = shares_beginnings(model, first)
        self._base: dict[str, list[Numbers]] | None = None

    def base(self, progress: Progress | None = None) -> dict[str, Any]:
        """What the base itself prefers, by probe and group."""
        return probe_measures(self._probes.items, self._of_base(progress), seed=self._seed)

    def task(
        self,
        name: str,
        sets: Mapping[str, TaskFactors],
        reference: str | None,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """By set what it prefers, by probe and group, and what changed against the reference."""
        order = sorted(sets, key=lambda label: label != reference)
        scores: dict[str, dict[str, list[Numbers]]] = {}
        for number, label in enumerate(order, 1):
            title = f"{name} {number}/{len(order)}"
            scores[label] = self._scores(sets[label], title, progress)
        known = scores.get(reference) if reference is not None else None
        return {
            label: probe_measures(
                self._probes.items, scores[label], None if label == reference else known, self._seed
            )
            for label in sets
        }

    def _of_base(self, progress: Progress | None) -> dict[str, list[Numbers]]:
        if self._base is None:
            self._base = self._scores({}, "base", progress)
        return self._base

    def _scores(
        self, factors: TaskFactors, title: str, progress: Progress | None
    ) -> dict[str, list[Numbers]]:
        placed = place(self._model, factors)
        mine = factors_key(factors)
        blocks = [
            (x, i) for x, groups in self._groups.items() for i in range(0, len(groups), BLOCK)
        ]
        made: dict[str, list[Numbers]] = {probe: [] for probe in self._groups}
        for number, (probe, start) in enumerate(blocks):
            if progress:
                progress(f"{title} {probe}", number, len(blocks))
            asked = self._groups[probe][start : start + BLOCK]
            about = digest_of(self._probes.items[probe][start : start + BLOCK])
            key = key_of([*self._about, str(self._weights), mine, about])
            # Without a hash of the base nothing that is remembered can be trusted.
            known = _read(self._memory.get(key), asked) if self._weights is not None else None
            if known is None:
                exact = likelihoods(self._model, asked, placed, shared=self._shared)
                known = [np.round(row, 6) for row in exact]
                if self._weights is not None:
                    self._memory.put(key, [row.tolist() for row in known])
            made[probe] += known
        return made


def _read(said: Any, groups: Sequence[Sequence[Any]]) -> list[Numbers] | None:
    """What was remembered, if it fits the groups."""
    if not isinstance(said, list) or len(said) != len(groups):
        return None
    rows = []
    for row, group in zip(said, groups, strict=True):
        right = isinstance(row, list) and len(row) == len(group)
        if not right or not all(isinstance(x, float | int) for x in row):
            return None
        rows.append(np.array(row, np.float64))
    return rows
