"""What a merge notes of its bundle."""

from __future__ import annotations

from hydraopt.merging.merge import merge
from hydraopt.merging.outcome import Job
from tests.merging.merge_cases import originals


def test_a_size_near_fp16_gets_a_note(three, tmp_path) -> None:
    assert merge(three, tmp_path / "out", size="25%", workers=1).notes == ()
    (note,) = merge(three, tmp_path / "out", size="120%", workers=1).notes
    assert note.code == "large_size"
    assert merge(three, tmp_path / "out", lossless=True).notes == ()


def test_a_note_names_tasks_whose_error_is_one_or_more(three, tmp_path, monkeypatch) -> None:
    names = sorted(originals(three))
    errors = dict(zip(names, (1.2, 0.9, 1.0), strict=True))
    monkeypatch.setattr(Job, "_errors", lambda job, draft, task: {"error": errors[task.name]})
    (note,) = merge(three, tmp_path / "out", size="25%", workers=1).notes
    assert (note.code, note.where) == ("large_error", f"{names[0]}, {names[2]}")
