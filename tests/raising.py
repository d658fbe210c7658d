"""Expect an error by its type and its facts, not by its wording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
import pytest
from click.testing import Result

from hydraopt.errors import HydraoptError

__all__ = ["check_refused", "raises"]


@contextmanager
def raises(kind: type[BaseException], **facts: object) -> Iterator[pytest.ExceptionInfo[Any]]:
    """Expect an error of this type whose attributes hold these facts.

    facts: of hydraopt.errors.explain, by name. A text must occur in the fact of that name; other
        values must equal it.
    """
    with pytest.raises(kind) as caught:
        yield caught
    _check(caught.value, facts)


def check_refused(
    result: Result,
    kind: type[Exception] | tuple[type[Exception], ...] = (HydraoptError, click.ClickException),
    *,
    names: str = "",
    **facts: object,
) -> None:
    """Check that a command ended with exit code 2, because of an error of this type.

    names: text that the message must contain, such as an option or a task.
    facts: as of :func:`raises`.
    """
    assert result.exit_code == 2, result.output
    error = _cause(result)
    assert isinstance(error, kind), repr(error)
    assert names in " ".join(result.stderr.split())
    _check(error, facts)


def _cause(result: Result) -> BaseException | None:
    """Return the error of hydraopt or click that ended the command."""
    error, found = result.exception, None
    while error is not None and not isinstance(found, HydraoptError):
        if isinstance(error, HydraoptError | click.ClickException):
            found = error
        error = error.__cause__ or error.__context__
    return found


def _check(error: BaseException, facts: Mapping[str, object]) -> None:
    for name, wanted in facts.items():
        stated = getattr(error, name)
        holds = wanted in str(stated) if isinstance(wanted, str) else stated == wanted
        assert holds, f"{name} is {stated!r}, expected {wanted!r}: {error}"
