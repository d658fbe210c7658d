"""Without a browser the first view of explore is left out, and nothing else."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reports.folders import added

report = pytest.importorskip("benchmarks.speed.report")


class _Server:
    """``hydraopt explore --json`` that has started."""

    pid = 1

    def __init__(self, *_: Any, **__: Any) -> None:
        self.stdout = io.StringIO(json.dumps({"address": "http://127.0.0.1:9"}, indent=1) + "\n")

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def terminate(self) -> None:
        pass


def test_the_start_is_measured_where_no_browser_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report.subprocess, "Popen", _Server)
    monkeypatch.setattr(report.browser, "why_not", lambda: "no chromium is installed")
    monkeypatch.setattr(report, "cpu_of", lambda process: 1.5)
    row = report.served_row(tmp_path, 100, 3)
    assert row == {
        "what": "explore",
        "tasks": 100,
        "start_seconds": row["start_seconds"],
        "start_cpu": 1.5,
    }


def test_the_run_says_what_it_leaves_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = pytest.importorskip("benchmarks.speed.folders")
    made = [{"what": "store", "store": x} for x in ("http", "s3")]
    monkeypatch.setattr(folders, "SPEED", tmp_path)
    monkeypatch.setattr(folders.browser, "why_not", lambda: "no chromium is installed")
    monkeypatch.setattr(folders, "write_collection", lambda *_: None)
    monkeypatch.setattr(folders, "split", lambda whole, folder: folder.mkdir())
    monkeypatch.setattr(folders, "store_rows", lambda *_: iter(made))
    monkeypatch.setattr(folders, "served_row", lambda *_: {"what": "explore"})
    monkeypatch.setattr(folders, "folder_row", lambda *_: {"what": "folder"})
    folders.main([str(tmp_path / "x.hydra.safetensors"), "--tasks", "100"])
    said = capsys.readouterr()
    assert "the first view is left out: no chromium is installed" in said.err
    assert [json.loads(line)["what"] for line in said.out.splitlines()] == [
        "store",
        "store",
        "explore",
        "folder",
    ]


def test_a_view_without_a_browser_is_an_empty_cell() -> None:
    used = {"seconds": 0.1, "read": 1000, "written": 1000}
    folder = {"what": "folder", "tasks": 100, "index": 100, "add": used, "open": used}
    folder |= {"list": used, "open_without": used, "task": used}
    explore = {"what": "explore", "tasks": 100, "start_cpu": 1.5}
    assert added([folder, explore])[1] == [[100, "0.10", 900, 900, "1.5", ""]]
    seen = {**explore, "drawn_ms": 250.0}
    assert added([folder, seen])[1] == [[100, "0.10", 900, 900, "1.5", "0.25"]]
