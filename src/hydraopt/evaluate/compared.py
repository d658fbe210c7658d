"""Sources to compare: adapters as they are, bundles, and the results of other methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hydraopt.adapters import Adapter, Adapters, read_adapters
from hydraopt.adapters.beyond import beyond_lora
from hydraopt.basemodel.model import TaskFactors
from hydraopt.bundle.reader import Bundle
from hydraopt.bundle.task import TaskAdapter
from hydraopt.collection.opening import is_bundle, open_bundle
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.classify import Classifier, is_classifier, saved_tensors
from hydraopt.files.url import AnyPath, place_of
from hydraopt.notes import Note, by_text

__all__ = ["BASE", "ORIGINAL", "BundleIdentity", "Compared", "bundles_of", "read_compared"]

BASE: Final = "base"
ORIGINAL: Final = "original"


@dataclass(frozen=True)
class BundleIdentity:
    """Content of a bundle.

    errors: stated errors of its tasks' modules.
    tensor_errors: largest stated error of each task's coded tensors.
    """

    bytes: int
    sha256: str
    errors: Mapping[str, float]
    tensor_errors: Mapping[str, float]


@dataclass(frozen=True)
class Compared:
    """Sources to compare: adapters as they are, and bundles by the name of their file.

    folders: folders of the adapters, whose names may give their tasks.
    other_methods: results of other methods, by label and adapter.
    notes: notes from reading the files.
    """

    adapters: Mapping[str, Adapter]
    bundles: Mapping[str, Bundle]
    folders: Mapping[str, AnyPath] = field(default_factory=dict)
    other_methods: Mapping[str, Mapping[str, TaskFactors]] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    def names(self) -> list[str]:
        """Return every adapter's name, of the originals and of the bundles."""
        names = dict.fromkeys(self.adapters)
        for bundle in self.bundles.values():
            names |= dict.fromkeys(bundle)
        return list(names)

    def check(self) -> None:
        """Raise UsageError for a task that is none of W + B A, or more and no classifier."""
        tasks: list[tuple[str, Adapter | TaskAdapter]] = [*self.adapters.items()]
        tasks += [(name, bundle[name]) for bundle in self.bundles.values() for name in bundle]
        # First what is none of W + B A, whatever else it holds.
        for name, task in tasks:
            if reasons := [*beyond_lora(task)]:
                raise _refused(name, ", ".join(reasons))
        for name, task in tasks:
            keys = sorted(task.extras if isinstance(task, Adapter) else task.extra_kinds)
            if keys and not self.classifies(name):
                raise _refused(name, f"{len(keys)} further tensors, {keys[0]} among them")

    def classifies(self, name: str) -> bool:
        """Return whether the adapter of that name classifies sequences, with a head of its own."""
        configs = [self.adapters[name].config] if name in self.adapters else []
        configs += [bundle[name].config for bundle in self.bundles.values() if name in bundle]
        return any(map(is_classifier, configs))

    def classifiers(self, name: str) -> dict[str, Classifier]:
        """Return the classifiers called ``name``: the original's and each bundle's.

        The base has no head.
        """
        sources: dict[str, Adapter | TaskAdapter] = {}
        if name in self.adapters:
            sources[ORIGINAL] = self.adapters[name]
        sources |= {label: x[name] for label, x in self.bundles.items() if name in x}
        factors = self.sets(name)
        return {
            label: Classifier(factors[label], saved_tensors(name, x.extras, x.extra_kinds))
            for label, x in sources.items()
        }

    def sets(self, name: str) -> dict[str, TaskFactors]:
        """Return the factors called ``name``: the base's (none), the original's, each bundle's."""
        by_label: dict[str, TaskFactors] = {BASE: {}}
        if name in self.adapters:
            modules = self.adapters[name].modules
            by_label[ORIGINAL] = {path: x.factors() for path, x in modules.items()}
        for label, bundle in self.bundles.items():
            if name in bundle:
                by_label[label] = {p: (f.B, f.A) for p, f in bundle[name].factors().items()}
        for label, made in self.other_methods.items():
            if name in made:
                by_label[label] = dict(made[name])
        return by_label


def _refused(name: str, got: str) -> UsageError:
    return UsageError(
        explain(
            f"adapter {name} is more than low-rank factors of linear modules",
            got=got,
            expected="LoRA pairs of linear modules alone, or a classifier with its head",
            do="Export it and score it with PEFT",
        )
    )


def read_compared(
    paths: Sequence[str],
    same_base: bool = False,
    base: str | None = None,
    alpha: float | None = None,
) -> Compared:
    """Read the adapters and bundles among ``paths``, distinguished by content.

    alpha: for files that do not state theirs. Raises HydraoptError.
    """
    bundles = [path for path in paths if is_bundle(path)]
    others = [path for path in paths if path not in bundles]
    adapters = read_adapters(others, same_base=same_base, alpha=alpha) if others else Adapters()
    labels = {place_of(path).name: open_bundle(path) for path in bundles}
    for bundle in labels.values():
        bundle.give_base(base)
    if len(labels) != len(bundles):
        raise UsageError(explain("two bundles have one file name", got=", ".join(bundles)))
    for label in (BASE, ORIGINAL):
        if label in labels:
            raise UsageError(
                explain(
                    f"a bundle is called {label}, as what bundles are compared with",
                    file=next(path for path in bundles if place_of(path).name == label),
                    expected=f"another name than {BASE} and {ORIGINAL}",
                    do="Rename the file",
                )
            )
    for adapter in adapters:
        adapter.check_finite()
    return Compared(
        {adapter.name: adapter for adapter in adapters},
        labels,
        {adapter.name: adapter.source.parent for adapter in adapters},
        notes=(*adapters.notes, *by_text((x.name, note) for x in adapters for note in x.notes)),
    )


def bundles_of(compared: Compared) -> dict[str, BundleIdentity]:
    """Return the identity of every bundle, by label."""
    return {
        label: BundleIdentity(
            bundle.size,
            bundle.sha256(),
            {x.name: x.error for x in bundle.manifest.tasks},
            {x.name: max(x.tensor_errors) for x in bundle.manifest.tasks if x.tensor_errors},
        )
        for label, bundle in compared.bundles.items()
    }
