"""The paper of a fleet follows from what was measured, and the page shows it."""

from __future__ import annotations

import pytest

from benchmarks.reports.fleet import block
from benchmarks.speed.fleet import on_paper

ROWS = [
    {"tasks": 10, "workers": 1, "numbers": 10**6, "cpu": [3.0, 0.0], "peaks": [200_000_000]},
    {"tasks": 110, "workers": 1, "numbers": 11 * 10**6, "cpu": [8.0, 0.0], "peaks": [300_000_000]},
    {"tasks": 110, "workers": 2, "numbers": 11 * 10**6, "cpu": [5.0, 4.0], "peaks": [9, 8]},
]


def test_what_starting_takes_is_not_multiplied() -> None:
    paper = on_paper(ROWS, rank=16, sides=1000, fraction=0.1)
    # 32 layers of rank 16: q and o of 8192, k and v of 5120, three of 18432, m + n.
    each = 32 * 16 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    assert paper["numbers_of_an_adapter"] == each
    assert paper["cpu_seconds_of_a_million_numbers"] == 0.5
    assert paper["core_hours"] == pytest.approx(10**4 * each * 0.5e-6 / 3600, abs=0.1)
    assert paper["bytes_of_a_number_in_memory"] == pytest.approx(1e8 / (100 * 16 * 1000), abs=0.1)
    assert paper["bundle_gb"] == pytest.approx(0.1 * paper["fp16_gb"], abs=0.1)
    assert paper["dollars_a_month_after"] < paper["dollars_a_month_before"] / 9


def test_the_page_shows_every_row_and_the_paper() -> None:
    paper = on_paper(ROWS, rank=16, sides=1000, fraction=0.1)
    about = {"modules": 4, "width": 500, "rank": 16, "size": "10%"}
    text = block({**about, "rows": ROWS, "paper": paper})
    assert "| 110 | 2 | 9.0 | 0.00, 0.00 | 0.82 |" in text
    assert f"| core hours | {paper['core_hours']:,} |" in text
