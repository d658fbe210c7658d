"""What the leaderboard's pictures draw."""

from __future__ import annotations

from benchmarks.reports.leaderboard import best, draw, series

ROWS = [
    {"method": "svd", "size_pct": 25.0, "relative_error": 0.3, "kl": 0.1, "mean_drop_pct": 1.0},
    {"method": "svd", "size_pct": 12.0, "relative_error": 0.5, "kl": 0.4, "mean_drop_pct": 9.0},
    {"method": "ties", "size_pct": 11.0, "relative_error": 1.2, "kl": 2.0, "mean_drop_pct": 80.0},
    {"method": "average", "size_pct": 10.0, "relative_error": 1.0},
    {"method": "hydraopt", "size_pct": 5.0, "relative_error": 0.4, "kl": 0.0, "mean_drop_pct": 0.0},
    {"method": "store all", "size_pct": 120.0, "relative_error": 0.0, "kl": 0.0},
]


def test_rows_stand_in_order_of_size_and_merged_adapters_together() -> None:
    assert series(ROWS, "relative_error") == {
        "hydraopt": [(5.0, 0.4)],
        "one adapter for all": [(10.0, 1.0), (11.0, 1.2)],
        "svd": [(12.0, 0.5), (25.0, 0.3)],
    }
    # Those without a score are left out.
    assert series(ROWS, "mean_drop_pct")["one adapter for all"] == [(11.0, 80.0)]


def test_a_line_runs_through_what_no_smaller_one_beats() -> None:
    assert best([(1, 5.0), (2, 6.0), (3, 4.0), (3, 3.0), (4, 3.0)]) == [
        (1, 5.0),
        (3, 4.0),
        (3, 3.0),
    ]


def test_pictures_with_and_without_scores(tmp_path) -> None:
    draw("some", ROWS, tmp_path / "scored.png")
    plain = [{k: row[k] for k in ("method", "size_pct", "relative_error")} for row in ROWS]
    draw("some", plain, tmp_path / "plain.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("scored.png", "plain.png"))
