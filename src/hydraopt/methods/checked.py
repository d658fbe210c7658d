"""The door of every method: options are checked on the way in, results on the way out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import numpy as np

from hydraopt.errors import NumericalError, explain
from hydraopt.methods.options import OPTIONS, check_option
from hydraopt.methods.small import Merged
from hydraopt.values import shown

__all__ = ["checked"]

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap ``function``, a method whose first parameter is the tasks' factors, in checks.

    Options of :data:`hydraopt.methods.options.OPTIONS` arrive as Python's own numbers; others raise
    UsageError. Where a result is not finite, or none is found for that reason, NumericalError.
    """
    signature = inspect.signature(function)
    defaults = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if name in OPTIONS
    }

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name in defaults.keys() & bound.arguments.keys():
            bound.arguments[name] = check_option(name, bound.arguments[name], defaults[name])
        try:
            # What leaves the range is an error in words, not a warning of numpy's.
            with np.errstate(over="ignore", invalid="ignore"):
                result = function(*bound.args, **bound.kwargs)
        except np.linalg.LinAlgError:
            raise _beyond(bound.arguments) from None
        if isinstance(result, Merged) and not result.finite:
            raise _beyond(bound.arguments)
        return result

    return run


def _beyond(arguments: Mapping[str, Any]) -> NumericalError:
    """Return the error for a result outside float64, naming the factors or options to blame."""
    factors, *options = arguments.items()
    for t, f in enumerate(factors[1]):
        if not (np.isfinite(f.B).all() and np.isfinite(f.A).all()):
            return NumericalError(
                explain("a task's factors hold NaN or infinity", got=f"task {t}", expected="none")
            )
    given = ", ".join(f"{name} {shown(value)}" for name, value in options if value is not None)
    return NumericalError(
        explain(
            "merging leaves the range of float64",
            got=given or "no options",
            expected="finite numbers at every step",
            do="Choose weights and options nearer to 1, or scale the adapters",
        )
    )
