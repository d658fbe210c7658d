"""Expect an error by its type and its facts, not by its wording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hydraopt.errors import HydraoptError

__all__ = ["raises"]


@contextmanager
def raises(
    kind: type[BaseException], **facts: object
) -> Iterator[pytest.ExceptionInfo[HydraoptError]]:
    """Expect an error of this type whose attributes hold these facts.

    facts: of hydraopt.errors.explain, by name. A text must occur in the fact of that name; other
        values must equal it.
    """
    with pytest.raises(kind) as caught:
        yield caught  # type: ignore[misc]
    for name, wanted in facts.items():
        stated = getattr(caught.value, name)
        holds = wanted in str(stated) if isinstance(wanted, str) else stated == wanted
        assert holds, f"{name} is {stated!r}, expected {wanted!r}: {caught.value}"
