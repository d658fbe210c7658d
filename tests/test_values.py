"""How a message shows values."""

from __future__ import annotations

import pytest

from hydraopt.notes import listed


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, ""),
        (1, "0"),
        (3, "0, 1, 2"),
        (4, "0, 1, 2 and 1 more"),
        (1003, "0, 1, 2 and 1,000 more"),
    ],
)
def test_the_first_few_are_named_and_the_others_counted(count: int, told: str) -> None:
    assert listed(range(count)) == told


def test_how_many_are_named_can_be_said() -> None:
    assert listed(["a", "b"], 1) == "a and 1 more"
