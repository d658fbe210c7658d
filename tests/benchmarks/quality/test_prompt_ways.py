"""Differences of two bundles over tasks, with intervals."""

from __future__ import annotations

import pytest

from benchmarks.quality.prompt_ways import compared, mean_interval


def test_an_interval_holds_the_mean_and_is_off_zero_where_all_tasks_agree() -> None:
    mean, low, high = mean_interval([-2.0, -1.0, -3.0, -2.0])
    assert mean == pytest.approx(-2)
    assert low < mean < high < 0
    _, low, high = mean_interval([-2.0, 2.0, 1.0, -1.0])
    assert low < 0 < high


def test_tasks_on_other_rows_are_left_out() -> None:
    one = {"a": {"of": 1, "changed": 3.0, "kl": 0.2}, "b": {"of": 2, "changed": 9.0, "kl": 0.2}}
    other = {"a": {"of": 1, "changed": 1.0, "kl": 0.1}, "b": {"of": 3, "changed": 9.0, "kl": 0.2}}
    made = compared(one, other)
    assert (made["tasks"], made["changed_pct"]) == (1, [2.0, 2.0, 2.0])
    assert made["kl_factor"] == pytest.approx([2.0] * 3)
