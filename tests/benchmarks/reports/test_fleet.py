"""The paper of a fleet follows from what was measured, and the page shows it."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.reports.fleet import block
from benchmarks.speed.fleet import on_paper

GB = 10**9


def row(tasks: int, workers: int, cpu: list[float], peaks: list[int], read: int) -> dict[str, Any]:
    about = {"tasks": tasks, "workers": workers, "numbers": tasks * 10**5, "cpu": cpu}
    return {**about, "peaks": peaks, "read": read, "wall": 90.0}


ROWS = [
    row(10, 1, [3.0, 0.0], [200_000_000], GB),
    row(110, 1, [8.0, 0.0], [200_400_000], GB + 10**8),
    row(110, 2, [5.0, 4.0], [9 * 10**7, 8 * 10**7], GB),
]


FORTY = [row(40, 1, [8.25, 0.0], [GB], GB), row(40, 2, [4.5, 4.25], [GB, GB], GB)]


def test_what_starting_takes_is_not_multiplied() -> None:
    paper = on_paper(ROWS, modules=4, fraction=0.1)
    # 32 layers of rank 16: q and o of 8192, k and v of 5120, three of 18432, m + n.
    each = 32 * 16 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    assert paper["numbers_of_an_adapter"] == each
    assert paper["cpu_seconds_of_a_million_numbers"] == 0.5
    assert paper["core_hours"] == pytest.approx(10**4 * each * 0.5e-6 / 3600, abs=0.1)
    assert paper["bytes_known"] == 1000
    assert paper["known_gb"] == pytest.approx(10**4 * 7 * 32 * 1000 / GB, abs=0.1)
    assert paper["reads"] == 5
    assert paper["read_gb"] == pytest.approx(5 * paper["fp16_gb"], rel=0.01)
    assert paper["bundle_gb"] == pytest.approx(0.1 * paper["fp16_gb"], abs=0.1)
    assert paper["dollars_a_month_after"] < paper["dollars_a_month_before"] / 9


def test_the_page_shows_every_row_the_small_ones_and_the_paper() -> None:
    paper = on_paper(ROWS, modules=4, fraction=0.1)
    about = {"modules": 4, "width": 500, "rank": 16, "size": "10%", "memory": "100MB"}
    small = {**row(12000, 2, [5.0, 4.0], [GB // 2, GB // 4], GB), "width": 64, "modules": 3}
    text = block({**about, "rows": ROWS, "small": small, "forty": FORTY, "paper": paper})
    assert "| 110 | 2 | 9.0 | 0.09, 0.08 | 0.82 |" in text
    told = " ".join(text.split())
    assert "12,000 adapters of 3 modules of 64 x 64, rank 16, into a collection, 2 workers" in told
    assert "1.5 minutes" in told
    assert "at most 0.50, 0.25 GB in each process" in told
    assert "1 worker 90.0 s on the clock and 8.2 CPU seconds; 2 workers 90.0 s" in told
    assert "and 4.5 + 4.2 CPU seconds." in told
    assert f"{paper['core_hours']:,} core hours" in told


def test_what_was_not_measured_is_left_out() -> None:
    about = {"modules": 4, "width": 500, "rank": 16, "size": "10%", "memory": "100MB"}
    text = block({**about, "rows": ROWS[:1], "small": None, "forty": None, "paper": None})
    assert "core hours" not in text
    assert "minutes" not in text
