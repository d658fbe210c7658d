"""The results in README and docs/evidence/index.md are what the result files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.quality import evidence_report
from benchmarks.speed import runtime_report

SCRIPTS = (report, evidence_report, runtime_report)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: Path(script.__file__).stem)
def test_the_pages_say_what_the_files_say(script) -> None:
    for path in script.PAGES:
        page = path.read_text(encoding="utf-8")
        assert report.filled(page, script.SECTIONS) == page, f"run python {script.__file__}"
    both = "".join(path.read_text(encoding="utf-8") for path in script.PAGES)
    assert all(f"<!-- {name} -->" in both for name in script.SECTIONS)
    assert report.PICTURE.is_file()


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
