"""Probes and swaps on adapters and bundles: asked once, and remembered.

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

from hydraopt.basemodel.encoding import Encoded, encode_row
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
from hydraopt.probes.swaps import SwapRow
from hydraopt.progress import Progress
from hydraopt.sources import source_hash

__all__ = ["Asker", "Prober", "prompter", "swap_labels"]

_DECIDE: Final = ("basemodel", "evaluate", "harm", "linalg", "probes")
"""Packages whose code decides which numbers items get."""
BLOCK: Final = 32
"""Items that are asked together. A larger sample begins with the blocks of a smaller one."""
_BLOCK_ROWS: Final = 4
"""Rows that are scored together with their variants, which are many texts each."""

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


def swap_labels(
    asker: Asker,
    name: str,
    instruction: str,
    labels: Sequence[str],
    rows: Sequence[SwapRow],
    sets: Mapping[str, TaskFactors],
    progress: Progress | None = None,
) -> dict[str, dict[tuple[int, str], str]]:
    """Return, by set, the likeliest label of each text of each row.

    labels: all that there are; EOS counts where one of them begins as another does. The answer is
    not written freely: another answer than a label is never given. Raises NoNumbersError for logits
    that are no numbers. name: of the adapter.
    """
    prompt = prompter(asker.tokenizer, instruction, labels)
    texts: dict[int, dict[str, None]] = {}
    for row in rows:
        texts.setdefault(row.number, {}).update(dict.fromkeys(row.texts()))
    numbers = sorted(texts)
    made: dict[str, dict[tuple[int, str], str]] = {}
    for place_in_line, (label, factors) in enumerate(sets.items()):
        bar = _bar(progress, name, place_in_line, len(sets))
        placed, mine = place(asker.model, factors), factors_key(factors)
        made[label] = {}
        for start in range(0, len(numbers), _BLOCK_ROWS):
            bar("swaps", start, len(numbers))
            some = numbers[start : start + _BLOCK_ROWS]
            groups = [[item for x in texts[i] for item in prompt(x)] for i in some]
            for i, scores in zip(some, asker.ask(placed, mine, groups), strict=True):
                check_finite({label: [scores]}, name)
                best = scores.reshape(-1, len(labels)).argmax(1)
                for text, k in zip(texts[i], best, strict=True):
                    made[label][i, text] = labels[k]
    return made


def prompter(
    tokenizer: Any, instruction: str, labels: Sequence[str]
) -> Callable[[str], list[Encoded]]:
    """Return a function from a text to its prompt with each label.

    EOS follows where one label is the beginning of another.

    Raises UsageError where one does and the tokenizer has no EOS.
    """

    def encoded_with(text: str, end: bool) -> list[Encoded]:
        return [encode_row(tokenizer, instruction, text, label, end) for label in labels]

    ends = [item.target for item in encoded_with("", False)]
    open_ended = any(a != b and b[: len(a)] == a for a in ends for b in ends)
    return lambda text: encoded_with(text, open_ended)
