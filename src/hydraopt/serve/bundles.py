"""One bundle on a model: its shared core as tensors, and heads decoded from it when asked for."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hydraopt.adapters import (
    HeldBytes,
    RawTensor,
    beyond_linear,
    changing,
    dtype_name,
    not_linear,
    other_tuner,
)
from hydraopt.bundle import Bundle, ModuleEntry, TaskAdapter, is_of_base, layer_below, open_bundle
from hydraopt.errors import UsageError, explain
from hydraopt.files import place_of
from hydraopt.serve.heads import Head, ModuleHead, ReplacedModule, Site, module_head, site_of
from hydraopt.serve.places import Places, UnfitError, replacements

BundleLike = Bundle | str | os.PathLike[str]
Bundles = BundleLike | Sequence[BundleLike] | Mapping[str, BundleLike]
"""A bundle, several, or several under names of the caller's own."""

_SUFFIXES = (".safetensors", ".hydra")


class PlacedBundle:
    """Bundle and the places of its modules in the model.

    label: names it among several.  sites: by module path of the bundle.
    """

    def __init__(self, model: nn.Module, bundle: Bundle, label: str) -> None:
        self._model, self.bundle, self.label = model, bundle, label
        self._sound: set[str] = set()
        # Some tensors may be kept as differences from the model's own.
        bundle.give_base(getattr(getattr(model, "config", None), "_name_or_path", None))
        manifest = bundle.core
        known = [x for x in manifest.modules if not_linear(x) is None]
        self._places = Places(model, known or self._lossless_modules(), bundle.path)
        self.sites: dict[str, Site] = {}
        self._widths = [(0, 0)] * len(manifest.modules)
        bases = iter(bundle.read_bases())
        for i, entry in enumerate(manifest.modules):
            left, right = next(bases, (None, None))
            self._widths[i] = (left.q if left else 0, right.q if right else 0)
            if not_linear(entry) is None:
                vectors = (x.vectors if x else None for x in (left, right))
                self.sites[entry.path] = site_of(self._places.find(entry), *vectors)
        next(bases, None)  # the reader checks the stream's end after its last module

    @property
    def nbytes(self) -> int:
        """Bytes of the shared core."""
        return sum(site.nbytes for site in self.sites.values())

    @property
    def adapters_bytes(self) -> int:
        """Bytes of the original adapters, one by one, in the widest type that modules compute in.

        This is the memory that they would take without the bundle.
        """
        types = {site.place.dtype for site in self.sites.values()} or {self._places.fallback}
        numbers = sum(task.numbers for task in self.bundle.rows)
        return numbers * max(x.itemsize for x in types)

    def key(self, task: TaskAdapter) -> Hashable:
        """Return the cache key of a head.

        Tasks of equal content share one, unless they have tensors besides the head.
        """
        entry = task.entry
        if entry.content is None or task.extra_kinds:
            return (self.label, task.name)
        # By its bytes: tasks of a folder may each be a bundle of their own.
        stream = f"task/{entry.content}"
        size, checksum = task.contents.sizes[stream], task.contents.checksum(stream)
        return (self.label, checksum, size, entry.modules, entry.tensors)

    def check(self, task: TaskAdapter) -> None:
        """Raise UsageError unless a task has only low-rank changes and replaced modules."""
        if task.name in self._sound:
            return
        reasons = list(obstacles(task, replacing=True))
        try:
            if not reasons:
                self._replacements(task)
        except UnfitError as error:
            classifier = task.config.get("task_type") == "SEQ_CLS"
            reasons = ["a head for sequence classification"] if classifier else []
            reasons.append(str(error))
        if reasons:
            raise UsageError(
                explain(
                    f"task {task.name!r} cannot be attached: it has {', '.join(reasons)}",
                    file=self.bundle.path,
                    expected="low-rank changes of linear modules, and whole ones that it replaces",
                    do="Export it and load it with PEFT",
                )
            )
        self._sound.add(task.name)

    def head(self, task: TaskAdapter) -> Head:
        """Return the task's head, decoded. Raises BundleFormatError for a damaged bundle."""
        head: dict[str, ModuleHead | ReplacedModule] = {}
        for path, record in task.split(self._widths):
            if record.count:
                site = self._site(task, path)
                head[site.place.name] = module_head(site, record)
        for name, tensors in self._replacements(task).items():
            module = self._model.get_submodule(name)
            own = {key: _like(getattr(module, key), x) for key, x in tensors.items()}
            head[name] = ReplacedModule(module, own)
        return head

    def _replacements(self, task: TaskAdapter) -> dict[str, dict[str, RawTensor]]:
        kinds = changing(task.extra_kinds, task.config)
        if not kinds:
            return {}
        changed = [self._places.renaming(path) for path in task.modules]
        extras = {
            key: x for key, x in task.extras.items() if key in kinds and not self._is_own(task, key)
        }
        return replacements(self._model, extras, self._places.renaming, changed)

    def _is_own(self, task: TaskAdapter, key: str) -> bool:
        """Return whether an extra is the model's own weight, in a layer that the task changes."""
        below = layer_below(task, key)
        if below is None:
            return False
        path = self._places.renaming(below)
        weight = getattr(self._model.get_submodule(path), "weight", None)
        if not isinstance(weight, Tensor) or weight.is_meta:
            return False
        dtype = dtype_name(weight.dtype)
        if dtype is None:
            return False
        data = weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        name, shape = f"{path}.weight", tuple(weight.shape)
        own = RawTensor(name, dtype, shape, Path("memory"), HeldBytes(data))
        return is_of_base(task, key, {name: own}, path)

    def _site(self, task: TaskAdapter, path: str) -> Site:
        """Return the site of a module; modules that only a lossless task has share nothing."""
        if path not in self.sites:
            self.sites[path] = site_of(self._places.find(task.modules[path]), None, None)
        return self.sites[path]

    def _lossless_modules(self) -> list[ModuleEntry]:
        for task in self.bundle.values():
            if task.entry.lossless and not list(obstacles(task)):
                return list(task.modules.values())
        return []


def _like(own: Tensor, tensor: RawTensor) -> Tensor:
    """Return the tensor in the type and on the device of the model's own."""
    return torch.from_numpy(np.array(tensor.numpy(), np.float32)).to(own.device, own.dtype)


def named_bundles(bundles: Bundles) -> dict[str, Bundle]:
    """Return the bundles by label: the caller's names, else the file's name up to its suffixes.

    Raises UsageError for none, and for two of one name.
    """
    named: list[tuple[str, BundleLike]]
    if isinstance(bundles, Mapping) and not isinstance(bundles, Bundle):
        named = list(bundles.items())
    else:
        alone = isinstance(bundles, Bundle | str | os.PathLike)
        each: Any = [bundles] if alone else bundles
        named = [(_label(x), x) for x in each]
    labels = [label for label, _ in named]
    twice = sorted({x for x in labels if labels.count(x) > 1})
    if not named or twice:
        raise UsageError(
            explain(
                "two bundles have one name" if twice else "no bundle is given",
                got=", ".join(twice) or None,
                do='Name them: {"one": "a/x.hydra.safetensors", "two": ...}' if twice else None,
            )
        )
    return {label: x if isinstance(x, Bundle) else open_bundle(x) for label, x in named}


def _label(bundle: BundleLike) -> str:
    name = (bundle.path if isinstance(bundle, Bundle) else place_of(bundle)).name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def obstacles(task: TaskAdapter, replacing: bool = False) -> Iterator[str]:
    """Yield the kinds of changes in a task other than low-rank changes of linear modules.

    replacing: tensors that were saved whole count as none; whether the model has a place for them
    is another question.
    """
    tuner = other_tuner(task.config)
    if tuner is not None:
        yield f"the tuner {tuner}"
    others = changing(task.extra_kinds, task.config)
    kinds = set(others.values()) - ({"saved"} if replacing else set())
    yield from (f"extra tensors of kind {kind}" for kind in sorted(kinds))
    yield from beyond_linear(task)
