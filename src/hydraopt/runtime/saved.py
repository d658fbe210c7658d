"""Modules of the model that a task replaces: tensors stored whole by ``modules_to_save``."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from hydraopt.adapters.keys import saved_names
from hydraopt.adapters.rawtensor import RawTensor
from hydraopt.runtime.places import Renaming

__all__ = ["UnfitError", "replacements"]


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
