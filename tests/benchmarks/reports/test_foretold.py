"""How far prompts miss what test rows show."""

from __future__ import annotations

from benchmarks.reports.foretold import _text


def _row(task: str, split: str, changed: float, likely: float, noise: float) -> dict[str, object]:
    said = {"changed_pct": changed, "likely_pct": likely, "as_noise_pct": noise}
    return {"task": task, "split": split, "size": "5%", "answers": 64, **said}


def test_misses_are_against_the_test_rows_of_the_same_task_and_size() -> None:
    rows = [
        _row("mood-en", "test", 10.0, 0.0, 0.0),
        _row("mood-de", "test", 20.0, 0.0, 0.0),
        _row("mood-en", "validation", 13.0, 10.0, 10.0),
        _row("mood-de", "validation", 16.0, 21.0, 40.0),
    ]
    text = _text("set.likely.json", {"set": "set", "rows": rows})
    line = "| fresh | {} | 2 | 15.0 | 3.5 | 0.7 | 14.1 |"
    assert line.format("mood") in text
    assert line.format("all") in text
    assert "trained on" not in text
    assert "; 64 prompts of each kind" in text.replace("\n", " ")
