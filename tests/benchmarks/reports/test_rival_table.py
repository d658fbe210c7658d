"""What hydraopt needs for a rival's KL, and the table that says so."""

from __future__ import annotations

import json

import pytest

from benchmarks.quality.sets import pinned
from benchmarks.reports.rivals import every_rival, needed
from tests.benchmarks.reports.test_scores import task

OURS = [{"size_pct": 2.0, "kl": 0.1}, {"size_pct": 8.0, "kl": 0.001}]


def test_sizes_at_equal_kl_lie_between_measured_ones() -> None:
    assert needed(OURS, 0.5) == needed(OURS, 0.1) == ("under ", 2.0)
    # A tenth of the way down is half way on both logarithmic scales.
    prefix, size = needed(OURS, 0.01)
    assert (prefix, size) == ("", pytest.approx(4.0))
    assert needed(OURS, 0.001) == ("", pytest.approx(8.0))
    assert needed(OURS, 0.0009) is None
    # What is less than results can tell is as good as the least that they tell.
    none = [*OURS, {"size_pct": 20.0, "kl": 0.0}]
    assert needed(none, 0.0) == ("", pytest.approx(20.0))
    assert needed(none, 1e-4)[1] < 20.0


def scored(labels: dict[str, float]):
    """A task with these rows, their KL by label."""
    found = task("a", 80.0, -4.0, 98.0)
    (one,) = (x for label, x in found["results"].items() if label not in ("base", "original"))
    plain = {name: found["results"][name] for name in ("base", "original")}
    return found | {"results": plain | {label: one | {"kl": kl} for label, kl in labels.items()}}


def test_rows_are_in_order_of_kl(tmp_path) -> None:
    assert every_rival(tmp_path)[1] == []
    sizes = {"ours 2%": 2.0, "ours 8%": 8.0, "other": 12.0, "unscored": 1.0}
    result = {
        "set": "gemma3-5x8",
        "adapters": pinned()["gemma3-5x8"][1],
        "plan": "rivals",
        "limits": {"rows": 24},
        "methods": {
            label: {
                "method": "hydraopt" if label.startswith("ours") else label,
                "setting": label.partition(" ")[2],
                "bytes": 1000,
                "size_pct": size,
                "errors": {"a": 0.5},
            }
            for label, size in sizes.items()
        },
        "tasks": [scored({"ours 2%": 0.1, "ours 8%": 0.001, "other": 0.01})],
    }
    (tmp_path / "gemma3-5x8.rivals.json").write_text(json.dumps(result))
    ours, other, small = every_rival(tmp_path)[1]
    assert [row[1] for row in (ours, other, small)] == ["hydraopt 8%", "other", "hydraopt 2%"]
    assert other[-2:] == ["4.0 %", "3.0"]
    assert ours[-2:] == small[-2:] == ["-", "-"]
