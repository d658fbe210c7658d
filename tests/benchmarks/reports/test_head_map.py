"""The map of heads and ranks: its table, and its picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.quality.sets import pinned
from benchmarks.reports.head_map import draw_map, every_setting, head_map
from tests.benchmarks.reports.test_rival_table import scored


def stored(folder: Path, settings: dict[str, float]) -> None:
    """A result of rows with these settings and sizes, the first one scored."""
    result = {
        "set": "gemma3-5x8",
        "adapters": pinned()["gemma3-5x8"][1],
        "plan": "map",
        "limits": {"rows": 24},
        "methods": {
            setting: {
                "method": "HydraOpt",
                "setting": setting,
                "bytes": round(1000 * size),
                "size_pct": size,
                "errors": {"a": 0.25, "b": 0.75},
            }
            for setting, size in settings.items()
        },
        "tasks": [scored({next(iter(settings)): 0.01})],
    }
    (folder / "gemma3-5x8.map.json").write_text(json.dumps(result))


def test_rows_stand_by_heads_and_rank_scored_or_not(tmp_path: Path) -> None:
    assert head_map(tmp_path) == "Not measured yet.\n"
    stored(tmp_path, {"M=10 r=8": 11.0, "M=2 r=16": 6.0, "M=2 r=8": 3.0})
    assert "(picture:map.png)" in head_map(tmp_path)
    _, rows = every_setting(tmp_path)
    assert [row[1:3] for row in rows] == [[2, 8], [2, 16], [10, 8]]
    assert rows[0][3:] == [3000, "3.0", "0.500", "", "", "", ""]
    assert rows[2][6:8] == ["0.01", "5.0"]


def test_a_setting_that_is_none_is_refused(tmp_path: Path) -> None:
    stored(tmp_path, {"M=2 r=8 tuned": 3.0})
    with pytest.raises(ValueError, match="setting"):
        head_map(tmp_path)


def test_the_picture_is_drawn_where_there_is_something(tmp_path: Path) -> None:
    draw_map(tmp_path / "map.png", tmp_path)
    assert not (tmp_path / "map.png").exists()
    stored(tmp_path, {"M=2 r=8": 3.0, "M=2 r=16": 6.0})
    draw_map(tmp_path / "map.png", tmp_path)
    assert (tmp_path / "map.png").stat().st_size > 5000
