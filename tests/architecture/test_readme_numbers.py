"""The results in the documents are what the result files say."""

from __future__ import annotations

import pytest

from benchmarks import pages
from benchmarks.reports import leaderboard
from benchmarks.reports.__main__ import REPORTS, sections_of
from benchmarks.reports.recovery import bytes_at


@pytest.mark.parametrize("report", REPORTS)
def test_the_pages_say_what_the_files_say(report: str) -> None:
    pages.rewrite(sections_of(report), check=True)


def test_the_leaderboard_says_what_the_files_say() -> None:
    leaderboard.write(check=True)


def test_every_block_has_one_report() -> None:
    made = [name for report in REPORTS for name in sections_of(report)]
    assert sorted(made) == sorted(pages.BLOCKS)


def test_sizes_at_equal_recovery_lie_between_measured_ones() -> None:
    rows = [
        {"method": "all", "size_pct": 2.0, "mean_recovery": 99.0},
        {"method": "all", "size_pct": 8.0, "mean_recovery": 99.99},
        {"method": "other", "size_pct": 1.0, "mean_recovery": 99.9},
    ]
    assert bytes_at(rows, 99.0) == bytes_at(rows, 50.0) == 2.0
    # A tenth of what is lost: half way on both logarithmic scales.
    assert bytes_at(rows, 99.9) == pytest.approx(4.0)
    assert bytes_at(rows, 99.995) is None
