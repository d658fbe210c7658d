"""Marks of single cases."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["slow"]


def slow(*values: object) -> Any:
    """A case of a parametrised test that the default suite leaves to .ci/run."""
    return pytest.param(*values, marks=pytest.mark.slow)
