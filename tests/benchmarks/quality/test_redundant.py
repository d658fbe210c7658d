"""Adapters that are made redundant on purpose."""

from __future__ import annotations

from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.quality.redundant import near_copies
from tests.compress.core_factors import relative_error
from tests.merging.merge_cases import originals

DATES = ROOT / "examples" / "adapters" / "dates-de"


def test_near_copies_are_near(tmp_path: Path) -> None:
    near_copies(DATES, tmp_path, 3, 0.01)
    found = originals(sorted(tmp_path.iterdir()))
    (true,) = originals([DATES]).values()
    for name, factors in found.items():
        errors = [relative_error(factors[path], true[path]) for path in true]
        if name == "copy-0":
            assert max(errors) < 1e-6
        else:
            assert 0.003 < min(errors) < max(errors) < 0.05
