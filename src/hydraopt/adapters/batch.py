"""Problems of the adapters that one call reads: all of them in one error, or in notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from hydraopt.errors import (
    AdapterFormatError,
    BatchError,
    HydraoptError,
    NotThereError,
    NumericalError,
    explain,
)
from hydraopt.notes import Note
from hydraopt.values import counted, one_line

__all__ = ["Problems"]

_SKIPPED: Final = (AdapterFormatError, NotThereError, NumericalError)
"""Errors that say that an adapter itself cannot be used."""


class Problems:
    """Errors of a batch of ``count`` adapters, collected while the others are read.

    skip: leave out adapters that cannot be read instead of failing.
    """

    def __init__(self, count: int, skip: bool = False) -> None:
        self._count, self._skip = count, skip
        self._errors: list[HydraoptError] = []
        self._skipped: list[HydraoptError] = []

    def add(self, error: HydraoptError | OSError, place: object = None) -> None:
        """Add an error. place: the adapter that it is about."""
        if not isinstance(error, HydraoptError):
            error = AdapterFormatError(
                explain(
                    "file cannot be read",
                    file=error.filename or place,
                    got=error.strerror or error,
                    do="Check the path and its permissions",
                )
            )
        if error.file is None:
            error.file = place
        skipped = self._skip and isinstance(error, _SKIPPED)
        (self._skipped if skipped else self._errors).append(error)

    def raise_any(self) -> None:
        """Raise the only error, or a BatchError that lists all of them."""
        if not self._errors:
            if len(self._skipped) == self._count:
                raise self._all("no adapter is left")
            return
        if len(self._errors) == 1:
            raise self._errors[0]
        raise self._all("not all adapters can be read")

    def _all(self, what: str) -> BatchError:
        errors = [*self._errors, *self._skipped]
        adapters = counted(self._count, "adapter")
        lines = [f"{what}: {counted(len(errors), 'problem')} in {adapters}"]
        lines += [f"  {one_line(str(error))}" for error in errors]
        if not self._skip and any(isinstance(error, _SKIPPED) for error in errors):
            lines.append("  --skip-unreadable (skip_unreadable=True) leaves out what is unreadable")
        error = BatchError("\n".join(lines))
        error.problems = tuple(errors)
        return error

    def notes(self) -> Iterator[Note]:
        """Yield notes that list the skipped files by reason."""
        for alike in _by_reason(self._skipped):
            reason = alike[0].what or str(alike[0]).partition(" [")[0]
            places = ", ".join(str(error.file) for error in alike)
            text = f"left out {counted(len(alike), 'adapter')}, {reason}: {places}"
            yield Note("unreadable", text, places)


def _by_reason(errors: Iterable[HydraoptError]) -> Iterator[Sequence[HydraoptError]]:
    groups: dict[object, list[HydraoptError]] = {}
    for error in errors:
        key = (error.what, error.do) if error.what else str(error)
        groups.setdefault(key, []).append(error)
    return iter(groups.values())
