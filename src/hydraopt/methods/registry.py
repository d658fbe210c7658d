"""Methods by name, and what is known of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hydraopt.errors import UsageError, explain
from hydraopt.methods.hydra import hydra
from hydraopt.methods.small import Merged

__all__ = ["METHODS", "Method", "method_named"]


@dataclass(frozen=True)
class Method:
    """A way to merge the adapters of one module.

    name: as results record it.
    run: a pure function of the module's factors and keyword options. ``weights`` among them are one
        for each task; ``inner_scales`` are the scales inside the B's.
    weighs_errors: whether weights say how much a task's error counts, not its share of a sum.
    """

    name: str
    run: Callable[..., Merged]
    weighs_errors: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        """Options and their default values, from the function itself."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise UsageError for options that the method does not have; their values are its own."""
        defaults = self.defaults
        unknown = sorted(set(options) - set(defaults))
        if unknown:
            raise UsageError(
                explain(
                    f"{self.name} has no such option",
                    got=", ".join(unknown),
                    expected=", ".join(defaults) or "none",
                )
            )


METHODS: Final[Mapping[str, Method]] = {"hydraopt": Method("hydraopt", hydra, weighs_errors=True)}
"""The methods of this package by name."""


def method_named(method: str | Method) -> Method:
    """Return the method of that name, or the one that is given.

    Another package may register a method as an entry point. Raises UsageError for a name that
    nobody has, PluginError for an entry point that is broken.
    """
    if isinstance(method, Method):
        return method
    from hydraopt import plugins

    return plugins.find("method", method, METHODS, plugins.METHODS, Method)
