"""Detection of changes in tasks other than low-rank changes of linear modules, W + B A.

Code that can apply only such changes to a model has to leave the others out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from hydraopt.adapters.model import Kind, Layout
from hydraopt.adapters.peft import changed_base
from hydraopt.adapters.tuners import other_tuner

__all__ = ["Changing", "Sited", "beyond_linear", "beyond_lora", "not_linear"]


class Sited(Protocol):
    """Module of an adapter, or as a bundle's manifest lists it."""

    @property
    def kind(self) -> Kind: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def groups(self) -> int: ...


class Changing(Protocol):
    """Adapter, or task of a bundle."""

    @property
    def modules(self) -> Mapping[str, Sited]: ...
    @property
    def config(self) -> Mapping[str, Any]: ...


def not_linear(module: Sited) -> str | None:
    """Describe a module that is not a whole linear one; None for a whole linear one."""
    if module.kind != "linear":
        return f"{module.kind} factors"
    if module.layout == "factor":
        return "factors of products"
    if module.layout in ("rows", "experts") or module.groups > 1:
        return f"factors of {module.layout} in groups"
    return None


def _other_settings(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings with which PEFT computes something other than W + B A."""
    for setting in ("alora_invocation_tokens", "layer_replication"):
        if config.get(setting):
            yield f"the setting {setting}"
    how = changed_base(config)
    if how is not None:
        yield f"an initialisation that changes the base, {how}"


def beyond_linear(task: Changing) -> Iterator[str]:
    """Yield the reasons why B A on the base's linear modules is not the whole task.

    The reasons are modules of other kinds, or another base. Tensors that are stored separately,
    such as a head, are not considered here.
    """
    yield from sorted({odd for x in task.modules.values() if (odd := not_linear(x)) is not None})
    yield from _other_settings(task.config)


def beyond_lora(task: Changing) -> Iterator[str]:
    """Yield the same reasons for a task that may belong to another tuner than LoRA."""
    tuner = other_tuner(task.config)
    if tuner is not None:
        yield f"the tuner {tuner}"
    yield from beyond_linear(task)
