"""What tasks have besides low-rank changes of linear modules, W + B A: whoever puts such changes
alone on a model has to leave the others out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from hydraopt.adapters.model import Kind, Layout
from hydraopt.adapters.peft import CHANGES_BASE
from hydraopt.adapters.tuners import other_tuner

__all__ = ["Changing", "Sited", "beyond_linear", "beyond_lora", "changed_base", "not_linear"]


class Sited(Protocol):
    """A module, of an adapter or as a bundle's manifest lists it."""

    @property
    def kind(self) -> Kind: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def groups(self) -> int: ...


class Changing(Protocol):
    """An adapter, or a task of a bundle."""

    @property
    def modules(self) -> Mapping[str, Sited]: ...
    @property
    def config(self) -> Mapping[str, Any]: ...


def not_linear(module: Sited) -> str | None:
    """What a module is, where it is no whole linear one."""
    if module.kind != "linear":
        return f"{module.kind} factors"
    if module.layout == "factor":
        return "factors of products"
    if module.layout in ("rows", "experts") or module.groups > 1:
        return f"factors of {module.layout} in groups"
    return None


def _other_settings(config: Mapping[str, Any]) -> Iterator[str]:
    """Settings by which PEFT computes something else than W + B A."""
    for setting in ("alora_invocation_tokens", "layer_replication"):
        if config.get(setting):
            yield f"the setting {setting}"
    how = changed_base(config)
    if how is not None:
        yield f"an initialisation that changes the base, {how}"


def changed_base(config: Mapping[str, Any]) -> str | None:
    """The initialisation, where it also changes the base when PEFT attaches the adapter."""
    how = config.get("init_lora_weights")
    return how if isinstance(how, str) and CHANGES_BASE.search(how) else None


def beyond_linear(task: Changing) -> Iterator[str]:
    """Why B A of its modules on the base's linear ones is not at all what a task does: other
    modules, or another base. Tensors that are kept beside, as a head, are another question."""
    yield from sorted({odd for x in task.modules.values() if (odd := not_linear(x)) is not None})
    yield from _other_settings(task.config)


def beyond_lora(task: Changing) -> Iterator[str]:
    """The same of a task that may be of another tuner."""
    tuner = other_tuner(task.config)
    if tuner is not None:
        yield f"the tuner {tuner}"
    yield from beyond_linear(task)
