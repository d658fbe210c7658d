"""The results in README and docs/evidence.md are what the result files say."""

from __future__ import annotations

import pytest

from benchmarks import report
from benchmarks.quality import evidence_report


def test_the_results_are_those_of_the_files() -> None:
    text = (report.ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.split(report.START)[1].split(report.END)[0]
    assert shown == report.block(), "run python benchmarks/report.py"
    assert report.PICTURE.is_file()


@pytest.mark.parametrize("path", evidence_report.PAGES, ids=lambda path: path.name)
def test_the_evidence_is_that_of_the_files(path) -> None:
    page = path.read_text(encoding="utf-8")
    assert evidence_report.filled(page) == page, "run python benchmarks/quality/evidence_report.py"


def test_sizes_at_equal_recovery_lie_between_measured_ones() -> None:
    rows = [
        {"method": "all", "size_pct": 2.0, "mean_recovery": 99.0},
        {"method": "all", "size_pct": 8.0, "mean_recovery": 99.99},
        {"method": "other", "size_pct": 1.0, "mean_recovery": 99.9},
    ]
    assert report.bytes_at(rows, 99.0) == report.bytes_at(rows, 50.0) == 2.0
    # A tenth of what is lost: half way on both logarithmic scales.
    assert report.bytes_at(rows, 99.9) == pytest.approx(4.0)
    assert report.bytes_at(rows, 99.995) is None
