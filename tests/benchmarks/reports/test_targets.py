"""The headline of the runtime and the server says what the result files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reports.targets import TARGETS, headline, lines

RUNTIME = [
    {"what": "mixed", "rows": 16, "tasks": 8, "throughput_ratio": 1.6, "threads": 1},
    {"what": "one task", "rows": 1, "throughput_ratio": 0.94, "threads": 1},
    {"what": "one task", "rows": 16, "throughput_ratio": 0.95, "threads": 1},
    {"what": "memory", "tasks": 40, "ratio": 0.3, "peft_exported_bytes": 5, "threads": 1},
    {"what": "switch", "cold_ms": 50.1, "warm_ms": 2.0, "bytes_read": 9, "threads": 1},
]
COMMON = {"seconds": 300.0, "clients": 64}
SERVER = [
    {"what": "answers", "wrong_task": 0, "unexplained": 1, "failed": 0, "requests": 7, **COMMON},
    {"what": "bad requests", "odd": 0, **COMMON},
    {"what": "memory", "slope_mib_per_minute": -0.1, **COMMON},
    {"what": "exit", "unclean": 0, "exit_seconds": 2.5, **COMMON},
]


def written(folder: Path, name: str, rows: Any) -> None:
    (folder / name).write_text(json.dumps({"rows": rows}))


def by_name(folder: Path, file: str) -> dict[str, dict[str, Any]]:
    return {x["what"]: x for x in headline(folder)["rows"] if x["result"].endswith(file)}


def test_values_are_held_against_targets(tmp_path) -> None:
    written(tmp_path, "runtime-gemma.json", RUNTIME)
    written(tmp_path, "serve-load.json", SERVER)
    found = headline(tmp_path)
    assert found["absent"] == [
        f"benchmarks/results/speed/runtime-{x}.json" for x in ("examples", "smollm2")
    ]
    assert len(found["rows"]) == sum(map(len, TARGETS.values()))
    runtime = list(by_name(tmp_path, "runtime-gemma.json").values())
    assert [x["met"] for x in runtime] == [True, False, True, True, False, True]
    assert [x["value"] for x in runtime] == [1.6, 0.94, 0.95, 0.3, 50.1, 2.0]
    assert runtime[4]["bytes_read"] == 9
    assert runtime[0]["target"] == ">= 1.5"
    server = list(by_name(tmp_path, "serve-load.json").values())
    assert [x["met"] for x in server] == [True, False, True, True, True, True]
    assert all(x["met"] is x["value"] is None for x in by_name(tmp_path, "examples.json").values())
    shown = "\n".join(lines(found))
    for text in ("1.6", "NOT met", "absent: benchmarks/results/speed/runtime-examples.json"):
        assert text in shown


@pytest.mark.parametrize(
    ("file", "rows", "change"),
    [
        ("runtime-gemma.json", RUNTIME[:1], {"tasks": 7}),
        ("runtime-gemma.json", RUNTIME[1:2], {"rows": 2}),
        # Two threads are not one core; a ratio to what the bundle gives back is another one.
        ("runtime-gemma.json", RUNTIME[4:], {"threads": 2}),
        ("runtime-gemma.json", RUNTIME[3:4], {"peft_exported_bytes": 0}),
        # A short trial is no result.
        ("serve-load.json", SERVER[:1], {"seconds": 30}),
        ("serve-load.json", SERVER[:1], {"clients": 8}),
    ],
)
def test_other_conditions_are_no_result(tmp_path, file, rows, change) -> None:
    written(tmp_path, file, rows)
    assert any(x["met"] is not None for x in by_name(tmp_path, file).values())
    written(tmp_path, file, [{**x, **change} for x in rows])
    assert all(x["met"] is None for x in by_name(tmp_path, file).values())


def test_bytes_that_nobody_measured_are_not_shown(tmp_path) -> None:
    """Older results have a 0 that was written and not read off."""
    for key, shown in (("warm_bytes_read", False), ("bytes_read_warm", True)):
        written(tmp_path, "runtime-gemma.json", [{**RUNTIME[4], key: 0}])
        rows = by_name(tmp_path, "runtime-gemma.json")
        assert (key in rows["a warm switch, ms on one core"]) == shown


def test_todays_results_can_be_read() -> None:
    assert all(set(x) >= {"what", "value", "target", "met", "result"} for x in headline()["rows"])
