"""Compiled loops over numpy arrays. After the first compilation they run without numba.

A loop is compiled as a C function of addresses, lengths and numbers. Its machine code is kept in a
file (:mod:`hydraopt.machinecode`). Where such code cannot be loaded, numba calls the loop.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydraopt import compiled
from hydraopt.compiled import INLINED, LENT, njit
from hydraopt.machinecode import kept_in, machine_code

__all__ = ["Kernel", "Lent", "kernel"]


class Lent:
    """Contiguous array whose address is looked up once, for many calls of kernels."""

    __slots__ = "array", "kind", "place"

    def __init__(self, array: NDArray[Any]) -> None:
        if not array.flags.c_contiguous:
            raise TypeError(f"an array of {array.shape} that is not contiguous")
        self.array, self.kind = array, (array.dtype, array.ndim)
        self.place = (array.ctypes.data, *array.shape)


def kernel(*types: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Return a decorator that makes a loop a :class:`Kernel`.

    The loop neither allocates nor raises, and returns an int, a bool or None.

    types: of the arguments, "int64" for a number or "float32[:,:]" for a matrix. Arrays must have
    that dtype and be contiguous; a :class:`Lent` may be given for its array.
    """
    return lambda function: Kernel(function, types)


class Kernel:
    """Loop that is loaded, or else compiled, at its first call."""

    def __init__(self, function: Callable[..., Any], types: tuple[str, ...]) -> None:
        update_wrapper(self, function)
        self._function = function
        parts = [kind.partition("[") for kind in types]
        self._kinds = [(np.dtype(name), after.count(":")) for name, _, after in parts]

    def load(self) -> None:
        """Load or compile the loop, which otherwise the first call does.

        Call it in one thread before several call the loop at the same time.
        """
        self._code  # noqa: B018  # a cached property

    def __call__(self, *arguments: Any) -> Any:
        if self._code is None:
            return self.by_numba(*arguments)
        flat: list[Any] = []
        for given, kind in zip(arguments, self._kinds, strict=True):
            if not kind[1]:
                flat.append(given)
                continue
            lent = given if type(given) is Lent else Lent(given)
            if lent.kind != kind:
                raise TypeError(f"{self._function.__name__}: {lent.kind}, expected {kind}")
            flat += lent.place
        return self._code(*flat)

    def by_numba(self, *arguments: Any) -> Any:
        """Call the loop through numba, as where no machine code is loaded; the result is equal."""
        return self._dispatched(*(x.array if isinstance(x, Lent) else x for x in arguments))

    @property
    def kept_in(self) -> str | None:
        """Folder that keeps the compiled loop; None if none does."""
        if self._code is None:
            path: str | None = self._dispatched.stats.cache_path  # type: ignore[attr-defined]
            return path
        folder = kept_in(self._function.__name__)
        return None if folder is None else str(folder)

    @cached_property
    def _dispatched(self) -> Callable[..., Any]:
        return njit(**LENT)(self._function)

    @cached_property
    def _code(self) -> Callable[..., int] | None:
        """C function of the kept machine code; None where numba calls the loop."""
        beside = sorted(Path(self._function.__code__.co_filename).parent.glob("*.py"))
        sources = Path(__file__), Path(compiled.__file__), *beside
        address = machine_code(self._function.__name__, sources, self._compile)
        if address is None:
            return None
        flat: list[Any] = []
        for _, dimensions in self._kinds:
            flat += [ctypes.c_void_p] * bool(dimensions) + [ctypes.c_int64] * max(dimensions, 1)
        return ctypes.CFUNCTYPE(ctypes.c_int64, *flat)(address)

    def _compile(self) -> Any:
        """Return numba's cfunc, which makes arrays of addresses and lengths and calls the loop."""
        import numba

        untyped: Any = numba  # its annotations know none of the signatures below
        types, flat, names, given = untyped.types, list[Any](), list[str](), list[str]()
        for i, (dtype, dimensions) in enumerate(self._kinds):
            one = getattr(types, dtype.name)
            lengths = [f"n{i}_{j}" for j in range(dimensions)]
            names += [f"x{i}", *lengths]
            flat += [types.CPointer(one) if dimensions else one, *[types.int64] * dimensions]
            given.append(f"carray(x{i}, ({', '.join(lengths)},))" if dimensions else f"x{i}")
        call = f"loop({', '.join(given)})"
        nothing = self._function.__annotations__["return"] == "None"
        body = f"{call}; return 0" if nothing else f"return int({call})"
        # Inlined before it is compiled, which then is done once.
        loop = untyped.njit(inline="always")(self._function)
        scope: dict[str, Any] = {"carray": untyped.carray, "loop": loop}
        exec(f"def entry({', '.join(names)}): {body}", scope)
        return untyped.cfunc(types.int64(*flat), nopython=True, **INLINED)(scope["entry"])
