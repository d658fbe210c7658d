"""Names of a package that load when they are first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

__all__ = ["load"]


def load(package: str, homes: Mapping[str, str], name: str) -> Any:
    """Import the object ``name`` from the module given in ``homes``.

    For a package's ``__getattr__``: who imports one module of a package then loads that one, not
    all of them. Raises AttributeError for other names, as Python wants it.
    """
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(homes[name]), name)
