"""How far prompts miss what test rows show."""

from __future__ import annotations

import json

from benchmarks.reports import foretold


def _row(task: str, split: str, changed: float, likely: float, noise: float) -> dict[str, object]:
    said = {"changed_pct": changed, "likely_pct": likely, "as_noise_pct": noise}
    return {"task": task, "split": split, "size": "5%", "answers": 64, **said}


def test_misses_are_against_the_test_rows_of_the_same_task_and_size(tmp_path, monkeypatch) -> None:
    rows = [
        _row("mood-en", "test", 10.0, 0.0, 0.0),
        _row("mood-de", "test", 20.0, 0.0, 0.0),
        _row("mood-en", "validation", 13.0, 10.0, 10.0),
        _row("mood-de", "validation", 16.0, 21.0, 40.0),
    ]
    monkeypatch.setattr(foretold, "QUALITY", tmp_path)
    (tmp_path / "set.likely.json").write_text(json.dumps({"set": "set", "rows": rows}))
    text = foretold.misses()
    assert "| fresh | 2 | 64 | 15.0 | 3.5 | 0.7 | 14.1 |" in text
    assert "trained on" not in text
    assert len(foretold.prompts()[1]) == 2
