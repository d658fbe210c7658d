"""Results of probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from hydraopt.evaluate.compared import BASE, ORIGINAL, Compared
from hydraopt.evaluate.probing import Asker, Prober
from hydraopt.evaluate.results import ProbeResults, ProbesAsked, Skipped, TaskResult
from hydraopt.evaluate.skipped import NoNumbersError
from hydraopt.probes.reading import ProbeSet
from hydraopt.progress import Progress

__all__ = ["People"]

_NO_TEXTS: Final = "a classifier with a head does not say how likely a text is"
_CORRECTION: Final = (
    "Holm, over all changes of one bundle on one adapter, and over all preferences and accuracies "
    "of it"
)

Models = Callable[[int | None], tuple[Any, Any]]
"""Function that returns the base as a language model (None) or as a classifier with this number of
labels, and its tokenizer."""


class People:
    """Prepare the measurements.

    probes: probes for every adapter, None for none.
    products: as in a EvaluationRequest.
    """

    def __init__(
        self,
        compared: Compared,
        models: Models,
        base: str,
        probes: ProbeSet | None,
        products: str,
    ) -> None:
        self._compared = compared
        self._models = models
        self._base = base
        self._probes = probes
        self._products = products
        self._known: tuple[Any, Asker, Prober | None] | None = None

    def asked(self, names: Sequence[str], progress: Progress | None = None) -> ProbesAsked | None:
        """Return the sources of the probes, and the base's preferences; None without probes.

        names: adapters of the result. If none of them can be probed, the base is not probed or
            loaded as a language model either, and ``skipped`` gives the reason.
        """
        if self._probes is None:
            return None
        nobody = all(map(self._compared.classifies, names))
        items = self._probes.items
        return ProbesAsked(
            self._probes.sources,
            self._probes.passed_by,
            {name: len(mine) for name, mine in items.items()},
            {name: mine[0].language for name, mine in items.items()},
            _CORRECTION,
            {} if nobody else self._prober().base(progress),
            f"nobody can be asked: {_NO_TEXTS}" if nobody else None,
        )

    def add(self, result: TaskResult, progress: Progress | None = None) -> TaskResult:
        """Return an adapter's result with its probes, or with the reason why there are none."""
        if self._probes is None:
            return result
        return replace(result, probes=self._probed(result.adapter, progress))

    def _asked(self) -> tuple[Asker, Prober | None]:
        """Return the language model's asker and prober, made again if the model was unloaded."""
        model, tokenizer = self._models(None)
        if self._known is None or self._known[0] is not model:
            asker = Asker(model, tokenizer, self._base, self._products)
            prober = Prober(asker, self._probes) if self._probes else None
            self._known = model, asker, prober
        return self._known[1:]

    def _prober(self) -> Prober:
        prober = self._asked()[1]
        assert prober is not None
        return prober

    def _probed(self, name: str, progress: Progress | None) -> ProbeResults | Skipped:
        if self._compared.classifies(name):
            return Skipped(_NO_TEXTS)
        sets = {x: y for x, y in self._compared.sets(name).items() if x != BASE}
        reference = ORIGINAL if ORIGINAL in sets else None
        prober = self._prober()
        try:
            by_set = prober.of_sets(name, sets, reference, progress)
        except NoNumbersError as error:
            return Skipped(str(error))
        probes = dict.fromkeys(probe for held in by_set.values() for probe in held)
        return {probe: {label: held[probe] for label, held in by_set.items()} for probe in probes}
