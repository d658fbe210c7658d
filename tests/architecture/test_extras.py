"""Each extra can be installed without a long search through versions."""

from __future__ import annotations

import tomllib

import pytest

from tools.lock import ROOT, bounds

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = sorted(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_s3fs_brings_is_bounded_wherever_s3fs_is(extra: str) -> None:
    """Each release of aiobotocore takes a few of botocore's: without a bound pip tries them all."""
    names = {name for name, _ in bounds(extra)}
    assert "s3fs" not in names or "aiobotocore" in names
