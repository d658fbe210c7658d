"""A config that a forged bundle holds can be any JSON; export makes do with what it can use."""

from __future__ import annotations

from typing import Any

import pytest

from hydraopt.export.peft import _targets


@pytest.mark.parametrize(
    ("targets", "fits"),
    [(3, False), (None, False), ({}, False), (["q"], True), (["k"], False), ("all-linear", True)],
)
def test_targets_of_any_kind(targets: Any, fits: bool) -> None:
    assert _targets({"target_modules": targets}, {"h.0.q": 4}) is fits
