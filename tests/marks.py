"""Marks of single cases."""

from __future__ import annotations

from typing import Any

import pytest

from hydraopt.codec import FORMS

__all__ = ["FORM_CASES", "slow"]


def slow(*values: object) -> Any:
    """A case of a parametrised test that the default suite leaves to .ci/run."""
    return pytest.param(*values, marks=pytest.mark.slow)


FORM_CASES = [slow(form) if form.startswith("shared") else form for form in FORMS]
"""All forms. In the default suite "two-sided" stands for those that share one of the sides."""
