"""What a merge notes of its bundle."""

from __future__ import annotations

from dataclasses import replace

from hydraopt.bundle import open_bundle
from hydraopt.merging import MeanError, merge
from hydraopt.merging.pipeline import notes_of


def test_a_size_near_fp16_gets_a_note(three, tmp_path) -> None:
    assert merge(three, tmp_path / "out", size="25%", workers=1).notes == ()
    (note,) = merge(three, tmp_path / "out", size="120%", workers=1).notes
    assert note.code == "large_size"
    assert merge(three, tmp_path / "out", lossless=True).notes == ()


def test_a_note_names_tasks_whose_error_is_one_or_more(three, tmp_path) -> None:
    merge(three, tmp_path / "out", error=0.2, workers=1)
    manifest = open_bundle(tmp_path / "out").manifest
    tasks = [
        replace(task, error=error)
        for task, error in zip(manifest.tasks, (1.2, 0.9, 1.0), strict=True)
    ]
    (note,) = notes_of(replace(manifest, tasks=tuple(tasks)), MeanError(0.2))
    assert (note.code, note.where) == ("large_error", f"{tasks[0].name}, {tasks[2].name}")
