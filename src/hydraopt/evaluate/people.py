"""Results about people: probes of every adapter, and identities swapped in its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from hydraopt.evaluate.classify import check_labels, classify_texts, labels_in
from hydraopt.evaluate.compared import BASE, ORIGINAL, Compared
from hydraopt.evaluate.context import context_of
from hydraopt.evaluate.probing import Asker, Prober, prompter, swap_labels
from hydraopt.evaluate.results import ProbeResults, ProbesAsked, Skipped, TaskResult
from hydraopt.evaluate.skipped import NoNumbersError
from hydraopt.evaluate.taskfile import TaskFile
from hydraopt.probes.reading import ProbeSet
from hydraopt.probes.swaps import LANGUAGES, SwapRow, swap_measures, swap_rows
from hydraopt.progress import Progress

__all__ = ["People", "is_classification"]

_MOST_LABELS: Final = 100
_NO_TEXTS: Final = "a classifier with a head does not say how likely a text is"
_CORRECTION: Final = (
    "Holm, over all changes of one bundle on one adapter, and over all preferences and accuracies "
    "of it"
)

Models = Callable[[int | None], tuple[Any, Any]]
"""Function that returns the base as a language model (None) or as a classifier with this number of
labels, and its tokenizer."""
Labels = Mapping[str, Mapping[tuple[int, str], str]]
_Ways = tuple[Any, Callable[[str], int], Callable[[Sequence[SwapRow]], Labels]]
"""The model that is asked, the tokens of a text as it is asked, and by set the labels of rows."""


def is_classification(task: TaskFile) -> bool:
    """Return whether rows are answered by labels, at most a quarter of the rows and at most 100."""
    outputs = {row.output for row in task.rows}
    right = outputs <= set(task.labels) and 4 * len(outputs) <= len(task.rows)
    return right and 2 <= len(task.labels) <= _MOST_LABELS


class People:
    """Prepare the measurements.

    probes: probes for every adapter, None for none.
    swaps: whether identities are swapped in rows.
    most: maximum number of rows of each kind.
    products: as in a EvaluationRequest.
    """

    def __init__(
        self,
        compared: Compared,
        models: Models,
        base: str,
        probes: ProbeSet | None,
        swaps: bool,
        most: int | None,
        products: str,
    ) -> None:
        self._compared = compared
        self._models = models
        self._base = base
        self._probes = probes
        self._swaps = swaps
        self._most = most
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

    def add(
        self, result: TaskResult, task: TaskFile | None, progress: Progress | None = None
    ) -> TaskResult:
        """Return an adapter's result with those of probes and swaps, as far as they are asked for.

        They are by probe or kind of swap, then by set; or Skipped gives the reason why there are
        none.
        """
        if self._probes is not None:
            result = replace(result, probes=self._probed(result.adapter, progress))
        if self._swaps and task is not None:
            result = self._swapped(result, task, progress)
        return result

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

    def _swapped(self, result: TaskResult, task: TaskFile, progress: Progress | None) -> TaskResult:
        name, where = result.adapter, f"{task.name}/{task.language}"
        headed = self._compared.classifies(name)
        if not headed and not is_classification(task):
            return replace(result, swaps=Skipped(f"{where} is no classification"))
        rows = swap_rows([row.input for row in task.rows], task.language, self._most)
        if not rows:
            lists = ", ".join(LANGUAGES)
            why = f"no list of identities in {task.language}; there are {lists}"
            return replace(result, swaps=Skipped(why))
        ways = self._by_head if headed else self._by_likelihood
        model, length, ask = ways(name, task, progress)
        context = context_of(model)
        kept = _short(rows, length, context.most)
        left_out = dict(Counter(row.kind for row in rows) - Counter(row.kind for row in kept))
        result = replace(result, swaps_left_out=left_out or None)
        if not kept:
            return replace(result, swaps=Skipped(f"every row of {where} is {context.words}"))
        try:
            labels = ask(kept)
        except NoNumbersError as error:
            return replace(result, swaps=Skipped(str(error)))
        original = ORIGINAL if ORIGINAL in labels else None
        return replace(result, swaps=swap_measures(kept, labels, original))

    def _by_head(self, name: str, task: TaskFile, progress: Progress | None) -> _Ways:
        sets = self._compared.classifiers(name)
        count = labels_in(name, next(iter(sets.values())).saved)
        check_labels(task, count)
        model, tokenizer = self._models(count)
        return (
            model,
            lambda text: len(tokenizer(text)["input_ids"]),
            lambda rows: classify_texts(model, tokenizer, task.labels, rows, sets, name),
        )

    def _by_likelihood(self, name: str, task: TaskFile, progress: Progress | None) -> _Ways:
        asker, sets = self._asked()[0], self._compared.sets(name)
        prompt = prompter(asker.tokenizer, task.instruction, task.labels)
        asked = asker, name, task.instruction, task.labels
        return (
            asker.model,
            lambda text: max(map(len, prompt(text))),
            lambda rows: swap_labels(*asked, rows, sets, progress),
        )


def _short(
    rows: Sequence[SwapRow], length: Callable[[str], int], most: int | None
) -> list[SwapRow]:
    """Return the rows whose texts all have a place in the base. length: tokens of a text."""
    if most is None:
        return list(rows)
    return [row for row in rows if max(map(length, row.texts())) <= most]
