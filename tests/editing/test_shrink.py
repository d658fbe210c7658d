"""What a shrink counts while it searches."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydraopt import merge, open_bundle, shrink
from hydraopt.errors import BudgetError
from hydraopt.merging import Job, refresh
from tests.raising import raises


@pytest.mark.parametrize("change", ["shrink", "refresh"])
def test_the_search_counts_what_is_written(
    three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Errors against the originals take other bytes than those against the bundle before."""
    made = merge(three, tmp_path / "x", size="60%", workers=1)
    real, seen = Job.size, []

    def counted(job, draft, *more) -> int:
        manifest = job.manifest(draft)
        seen.append([task.error for task in manifest.tasks])
        return real(job, draft, *more)

    monkeypatch.setattr(Job, "size", counted)
    limit, output = int(0.8 * made.size), tmp_path / "y"
    if change == "shrink":
        size = shrink(tmp_path / "x", output, size=limit, workers=1).size
    else:
        size = refresh(tmp_path / "x", output, size=limit, workers=1).size
    assert size == output.stat().st_size <= limit
    written = [task.error for task in open_bundle(output).manifest.tasks]
    assert written in seen[:-1]


def test_an_error_so_small_that_nothing_shrinks_is_refused(three, tmp_path: Path) -> None:
    """As a size is: a larger file that is further from the originals serves nobody."""
    size = merge(three, tmp_path / "x", size="20%", workers=1).size
    with raises(BudgetError, file="x", expected=f"{size:,} bytes", do="larger error"):
        shrink(tmp_path / "x", tmp_path / "y", error=0.01, workers=1)
    assert not (tmp_path / "y").exists()
    assert shrink(tmp_path / "x", tmp_path / "y", error=0.5, workers=1).size > 0


def test_a_size_above_that_of_the_bundle_is_refused(three, tmp_path: Path) -> None:
    size = merge(three, tmp_path / "x", size="20%", workers=1).size
    with raises(
        BudgetError, file="x", got=f"{2 * size:,} bytes", expected=f"{size:,}", do="smaller size"
    ):
        shrink(tmp_path / "x", tmp_path / "y", size=2 * size, workers=1)
    assert not (tmp_path / "y").exists()


def test_forms_that_a_merge_did_not_permit_stay_out(three, tmp_path: Path) -> None:
    merge(three, tmp_path / "x", size="40%", forms=["private"], workers=1)
    made = shrink(tmp_path / "x", tmp_path / "y", size="20%", workers=1)
    assert made.forms.keys() == {"private"}
    assert open_bundle(tmp_path / "y").recipe["forms"] == ["private"]
