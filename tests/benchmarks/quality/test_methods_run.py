"""Calls of ``methods``: what another process is told, and what an earlier result keeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import methods
from benchmarks.quality.harness import building
from hydraopt.adapters import Adapter, read_adapters
from hydraopt.evaluate.compare import EvaluationRequest


@pytest.fixture
def adapters(make_adapter, tmp_path: Path, monkeypatch) -> list[Adapter]:
    rng = np.random.default_rng(0)
    folders = []
    for name in ("one", "other"):
        b, a = 0.1 * rng.standard_normal((96, 3)), rng.standard_normal((3, 96))
        folders.append(make_adapter(tmp_path / name, {"model.layers.0.self_attn.q_proj": (b, a)}))
    found = read_adapters(folders)
    monkeypatch.setattr(methods, "original_adapters", lambda _: found)
    for folder in ("ROOT", "QUALITY"):
        monkeypatch.setattr(methods, folder, tmp_path)
    return found


def run_of(*arguments: str) -> methods.Run:
    return methods.Run.of(methods._arguments(["gemma3-separate8", *arguments]))


@pytest.mark.parametrize("more", [["--tune"], ["--score"], ["--ours", "5%"]], ids=lambda x: x[0])
def test_another_process_sees_the_same_rows(adapters, tmp_path: Path, more: list[str]) -> None:
    run = run_of(*more, "--tasks", str(tmp_path))
    child = methods.Run.of(methods._arguments([*run.arguments, "--one", "x", str(tmp_path)]))
    assert [row.label for row in child.rows] == [row.label for row in run.rows]


def test_a_file_of_tuned_options_has_to_be_there(adapters, capsys) -> None:
    with pytest.raises(SystemExit):
        run_of("--tuned", "nowhere.json")
    assert "--tuned nowhere.json: no such file" in capsys.readouterr().err


def test_nothing_is_written_where_no_trial_was_built(adapters, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "tuned.json"
    out.write_text("{}")
    run = run_of("--tune", "--tasks", str(tmp_path), "--out", str(out))
    monkeypatch.setattr(methods.Run, "built", lambda self: {"x": {"failed": "no room"}})
    monkeypatch.setattr(methods, "trials", lambda *_: {"x": ("ties", {}, None)})
    monkeypatch.setattr(methods, "request_for", lambda *_: EvaluationRequest("no base", tmp_path))
    with pytest.raises(SystemExit, match="room"):
        methods.tune_all(run)
    assert out.read_text() == "{}"


def built(run: methods.Run) -> dict[str, building.Note]:
    made = {}
    for row in run.rows:
        folder = run.place / row.label
        building.emptied(folder)
        made[row.label] = building.measured(row, run.adapters, folder)
    return made


@pytest.fixture
def scored(adapters, tmp_path: Path, monkeypatch) -> Path:
    """A result of two rows, one of ours among them, that a first call made and scored."""
    monkeypatch.setattr(methods.Run, "built", built)
    out = tmp_path / "x.json"
    _, result = methods.build(run_of("--only", "group_4_bit", "--ours", "1kB", "--out", str(out)))
    scores = {label: {"loss": 1.0} for label in ("base", "original", *result["methods"])}
    tasks = [{"adapter": "one", "results": scores}]
    limits = {"limits": {"rows": 8}, "products": "bfloat16"}
    out.write_text(json.dumps({**result, **limits, "tasks": tasks}))
    return out


def test_rows_that_a_call_is_not_asked_for_stay(scored: Path) -> None:
    before = json.loads(scored.read_text())
    assert len(before["methods"]) == 2
    methods.build(run_of("--only", "group_2_bit", "--out", str(scored)))
    after = json.loads(scored.read_text())
    assert after["methods"].items() >= before["methods"].items()
    assert "group_2_bit" in after["methods"]
    assert after["tasks"] == before["tasks"]


def test_another_result_is_refused_before_it_is_changed(scored: Path, adapters) -> None:
    text = scored.read_text()
    more = ["--only", "group_2_bit", "--out", str(scored)]
    with pytest.raises(SystemExit, match="rows"):
        methods.build(run_of("--score", "--tasks", "tasks", "--rows", "9", *more))
    with pytest.raises(SystemExit, match="adapters"):
        methods.build(run_of("--adapters", "1", *more))
    assert scored.read_text() == text
