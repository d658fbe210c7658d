"""Places of a bundle's modules in a model: names, shapes, and how a module computes."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from hydraopt.adapters import RawTensor, saved_names
from hydraopt.bundle import ModuleEntry
from hydraopt.errors import AlignmentError, explain
from hydraopt.files import AnyPath


class UnfitError(ValueError):
    """Error of a saved tensor that stands for no module of the model."""


def replacements(
    model: nn.Module,
    saved: Mapping[str, RawTensor],
    renaming: Renaming,
    changed: Collection[str],
) -> dict[str, dict[str, RawTensor]]:
    """Return the saved tensors by the model's name of their module, and by their name in it.

    saved: by key of the file.  changed: modules that the task changes as well.
    Raises UnfitError, which says why, for the first tensor that cannot be used.
    """
    modules = dict(model.named_modules())
    replaced: dict[str, dict[str, RawTensor]] = {}
    for key, whole in saved_names(saved).items():
        tensor = saved[key]
        path, _, name = whole.rpartition(".")
        place = renaming(path) if path.count(".") >= renaming.cut else ""
        problem = _problem(modules.get(place) if place else None, name, tensor)
        if problem is None and place in changed:
            problem = "the task changes that module too"
        if problem is not None:
            raise UnfitError(f"the saved tensor {path}.{name} of shape {tensor.shape}: {problem}")
        replaced.setdefault(place, {})[name] = tensor
    return replaced


def _problem(module: nn.Module | None, name: str, tensor: RawTensor) -> str | None:
    if module is None:
        return "the model has no such module"
    kind = type(module).__name__
    plain = isinstance(module, nn.Linear | nn.Embedding) or kind.endswith(("Norm", "Conv1D"))
    if not plain or next(module.children(), None) is not None:
        return f"there it is in a {kind}, which is no linear module, embedding or norm"
    own = module._parameters.get(name)
    if own is None or tuple(own.shape) != tensor.shape:
        return "there is none in the model" if own is None else f"there it is {tuple(own.shape)}"
    if not own.is_floating_point() or own.element_size() == 1 or not tensor.is_float:
        return "it is quantised, or holds no floats"
    return None if own.device.type != "meta" else "the model's is not in memory"


_SHOWN = 3


@dataclass(frozen=True)
class Renaming:
    """Name of a module in the model: ``prefix`` + the bundle's path without ``cut`` names."""

    cut: int = 0
    prefix: str = ""

    def __call__(self, path: str) -> str:
        return ".".join([*filter(None, [self.prefix]), *path.split(".")[self.cut :]])


@dataclass(frozen=True)
class ModulePlace:
    """Module of the model, and the device and type of its factors.

    name: in the model.  module: with m outputs and n inputs.
    """

    name: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype


def shape_of(module: nn.Module) -> tuple[int, int] | None:
    """Return (m, n), outputs and inputs, of a layer that computes like a linear one, else None.

    nn.Linear and whatever names its sizes the same way (bitsandbytes' layers, PEFT's wrappers), and
    transformers' Conv1D, whose weight is (n, m).
    """
    m, n = getattr(module, "out_features", None), getattr(module, "in_features", None)
    if isinstance(m, int) and isinstance(n, int):
        return m, n
    m, weight = getattr(module, "nf", None), getattr(module, "weight", None)
    if isinstance(m, int) and isinstance(weight, torch.Tensor) and weight.dim() == 2:
        n = int(weight.shape[0])
        return (m, n) if weight.shape[1] == m else None
    return None


class Places:
    """Modules of one bundle in one model, found by one renaming of all paths.

    fallback: the type of modules that do not say in which they compute.
    Raises AlignmentError, naming the first module that is missing or has another shape.
    """

    def __init__(self, model: nn.Module, entries: Iterable[ModuleEntry], file: AnyPath) -> None:
        self._modules = dict(model.named_modules())
        self._file = file
        self.fallback = next(_float_types(model.parameters()), torch.float32)
        needed = {entry.path: (entry.m, entry.n) for entry in entries}
        self.renaming = self._renaming(needed)

    def find(self, entry: ModuleEntry) -> ModulePlace:
        """Return the place of a module. Raises AlignmentError."""
        name = self.renaming(entry.path)
        problem = self._problem(name, (entry.m, entry.n))
        if problem is not None:
            raise self._missing(entry.path, name, (entry.m, entry.n), problem)
        module = self._modules[name]
        tensors = [*module.parameters(), *module.buffers()]
        device = next((x.device for x in tensors), torch.device("cpu"))
        if device.type == "meta":
            raise AlignmentError(
                explain(
                    "a module's weights are not in memory",
                    file=self._file,
                    module=name,
                    got="a meta tensor, as offloading leaves it",
                    do="Load the model without offloading this module",
                )
            )
        return ModulePlace(name, module, device, self._dtype(module))

    def _dtype(self, module: nn.Module) -> torch.dtype:
        """Return the float type a module computes in; quantised ones convert to it."""
        named = getattr(module, "compute_dtype", None)
        weight = getattr(module, "weight", None)
        own = list(_float_types([weight] if isinstance(weight, torch.Tensor) else []))
        return own[0] if own else named if isinstance(named, torch.dtype) else self.fallback

    def _problem(self, name: str, shape: tuple[int, int]) -> str | None:
        module = self._modules.get(name)
        if module is None:
            return "no such module"
        own = shape_of(module)
        if own is None:
            return f"a {type(module).__name__}, which is not linear"
        return None if own == shape else f"shape {own}"

    def _renaming(self, needed: Mapping[str, tuple[int, int]]) -> Renaming:
        if not needed:
            return Renaming()
        first = next(iter(needed))
        # What is cut off has to be the same in all paths.
        same = [x for x in range(_most_cut(first) + 1) if len({_head(p, x) for p in needed}) == 1]
        for cut in same:
            fits = [x for x in self._candidates(first, cut) if self._fits(x, needed)]
            if Renaming() in fits:
                return Renaming()
            if len(fits) > 1:
                names = ", ".join(x(first) for x in fits[:_SHOWN])
                raise AlignmentError(
                    explain(
                        "the bundle's modules are in the model more than once",
                        file=self._file,
                        module=first,
                        got=names,
                        do="Attach to the submodule that the adapters were trained on",
                    )
                )
            if fits:
                return fits[0]
        path = next(p for p, shape in needed.items() if self._problem(p, shape) is not None)
        problem = self._problem(path, needed[path])
        assert problem is not None
        raise self._missing(path, path, needed[path], problem)

    def _candidates(self, path: str, cut: int) -> list[Renaming]:
        rest = ".".join(path.split(".")[cut:])
        names = [x for x in self._modules if f".{x}".endswith(f".{rest}")]
        return [Renaming(cut, x[: -len(rest)].rstrip(".")) for x in names]

    def _fits(self, renaming: Renaming, needed: Mapping[str, tuple[int, int]]) -> bool:
        return all(self._problem(renaming(path), shape) is None for path, shape in needed.items())

    def _missing(
        self, path: str, name: str, shape: tuple[int, int], problem: str
    ) -> AlignmentError:
        linear = [x for x, module in self._modules.items() if x and shape_of(module) is not None]
        last = path.rpartition(".")[2]
        near = [x for x in linear if x.rpartition(".")[2] == last and x != name]
        near = near or difflib.get_close_matches(path, linear, _SHOWN, 0.3) or linear
        others = f"; the model has {', '.join(near[:_SHOWN])}" if near else ""
        return AlignmentError(
            explain(
                "the model lacks a module of the bundle",
                file=self._file,
                module=path,
                got=problem + others,
                expected=f"a linear module of shape {shape}",
                do="Give the base model that the adapters were trained on",
            )
        )


def _most_cut(path: str) -> int:
    """Return the maximum number of leading names of a path that may differ in the model.

    They belong to a wrapper and are never a layer's number. Two names are always kept, and a number
    keeps the one before it.
    """
    names = path.split(".")
    numbers = [i for i, name in enumerate(names) if name.isdecimal()]
    return max(min([len(names) - 2, *(i - 1 for i in numbers[:1])]), 0)


def _head(path: str, cut: int) -> tuple[str, ...]:
    names = path.split(".")
    return tuple(names[:cut]) if len(names) > cut else ()


def _float_types(tensors: Iterable[torch.Tensor]) -> Iterator[torch.dtype]:
    """Yield the dtypes of tensors used in computation; 8-bit floats are storage only."""
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.element_size() > 1:
            yield tensor.dtype
