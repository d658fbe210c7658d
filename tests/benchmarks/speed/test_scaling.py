"""Exponents and ratios of the scaling benchmark are right on made-up cells."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reports import scaling as scaling_report
from benchmarks.rivals.environments import run_lines
from benchmarks.speed import scaling
from benchmarks.speed.exponents import exponent, exponents, with_ratios
from benchmarks.speed.scaling import Cell, cells_of, summary
from benchmarks.speed.synthetic import llama_layers, write_adapters
from hydraopt.adapters import read_adapters


def row(tool: str, tasks: int, rank: int = 16, width: int = 1024, **more):
    place = {"shape": "square", "width": width, "modules": 4, "rank": rank, "tasks": tasks}
    return {**place, "tool": tool, "load_1min": 0.1, **more}


def test_an_exponent_is_that_of_the_power() -> None:
    for p in (-1.0, 0.0, 0.5, 2.0):
        slope, spread = exponent([(x, 3.7 * x**p) for x in (4, 8, 16, 64)])
        assert slope == pytest.approx(p, abs=1e-9)
        assert spread == pytest.approx(1.0)
    # Neither the unit of time nor that of size matters.
    points = [(4, 1.0), (8, 2.5), (16, 3.0)]
    again = exponent([(60 * x, 1000 * y) for x, y in points])
    assert again == pytest.approx(exponent(points))
    # By hand: logs to base 2 are (0, 0), (1, 0), (2, 3); slope 3/2, the middle is 1 off its 1.
    assert exponent([(1, 1), (2, 1), (4, 8)]) == pytest.approx((1.5, 2.0))


@pytest.mark.parametrize("points", [[], [(4, 1.0)], [(4, 1.0), (4, 2.0)]])
def test_one_x_has_no_exponent(points) -> None:
    with pytest.raises(ValueError, match="two"):
        exponent(points)


def test_exponents_follow_one_axis_at_a_time() -> None:
    rows = [row("hydraopt", t, merge_wall=0.1 * t) for t in (4, 8, 16)]
    rows += [row("hydraopt", 8, width=w, merge_wall=0.8 * (w / 1024) ** 2) for w in (512, 2048)]
    rows += [row("peft svd", 4, merge_wall=5.0), row("peft svd", 8, over=120)]
    found = {(x["tool"], x["axis"]): x for x in exponents(rows)}
    assert set(found) == {("hydraopt", "tasks"), ("hydraopt", "width")}
    assert found["hydraopt", "tasks"]["exponent"] == pytest.approx(1.0)
    assert found["hydraopt", "tasks"]["points"] == 3
    assert found["hydraopt", "width"]["exponent"] == pytest.approx(2.0)
    assert found["hydraopt", "width"]["at"]["tasks"] == 8


def test_ratios_are_of_one_cell_and_of_runs_that_ended() -> None:
    rows = [
        row("hydraopt", 4, merge_wall=2.0, task_wall=0.5),
        row("lorashare", 4, merge_wall=3.0, task_wall=0.1),
        row("peft svd", 4, over=120),
        row("lorashare", 8, merge_wall=9.0),
        row("hydraopt", 8, over=120),
    ]
    found = with_ratios(rows)
    assert found[0]["merge_ratio"] == 1.0
    assert found[1]["merge_ratio"] == 1.5
    assert found[1]["task_ratio"] == 0.2
    assert not any("merge_ratio" in x for x in found[2:])
    assert with_ratios(found) == found


def test_cells_change_one_number_at_a_time() -> None:
    cells = cells_of((4, 8, 16, 32, 64), (8, 16, 32, 64), (512, 1024, 2048, 4096), layers=2)
    assert len(cells) == len(set(cells)) == 5 + 3 + 3 + 5
    square = [cell for cell in cells if cell.shape == "square"]
    away = [(c.tasks != 8) + (c.rank != 16) + (c.width != 1024) for c in square]
    assert max(away) == 1
    assert away.count(0) == 1
    assert {c.modules for c in cells if c.shape == "8b"} == {14}
    assert cells_of((4,), (64,), (512,), layers=0) == [Cell("square", 512, 4, 64, 4)]


def test_a_run_over_the_limit_is_a_result() -> None:
    code = 'import signal, time; print(\'{"run": "ready"}\', flush=True)\n'
    code += "signal.setitimer(signal.ITIMER_REAL, 0.2)\n"
    lines = list(run_lines([sys.executable, "-c", code + "time.sleep(60)"]))
    assert lines[-1]["code"] == -signal.SIGALRM
    assert summary(lines, 1) == {"over": 1}
    assert "not ready" in summary(lines[1:], 1)["failed"]
    once = [*lines[:1], {"run": "merge", "wall": 1.0, "cpu": 2.0}, lines[-1]]
    assert summary(once, 1) == {"merge_wall": 1.0, "merge_cpu": 2.0}
    refused = [{"failed": "RuntimeError: no", "code": 1}]
    assert summary(refused, 1) == {"failed": "RuntimeError: no"}
    assert "failed" in summary([], 1)


def test_the_section_holds_what_was_measured() -> None:
    rows = [
        row("hydraopt", t, merge_wall=0.1 * t, cold_open_wall=0.01, cold_task_wall=0.02,
            peak_mib=300.0, peak_less_imported_mib=100.0) for t in (4, 8)
    ]  # fmt: skip
    rows += [row("peft svd", t, over=120) for t in (4, 8)]
    rows += [row("vlora", t, failed="no half") for t in (4, 8)]
    rows = with_ratios(rows)
    head = {"hardware": {"cpu": "some", "cores": 2}, "limit": 120, "repeats": 3}
    result = {**head, "rows": rows, "exponents": exponents(rows)}
    text = scaling_report.block(result)
    assert "| hydraopt | square | 1.00 |" in text
    assert "vlora: no half" in text
    _, cells = scaling_report.cells(result)
    found = {tuple(row[3:6]): row[6:] for row in cells}
    assert found[8, 16, "hydraopt"] == ["0.80", "1.00", "0.030", "", "100"]
    assert found[8, 16, "peft svd"] == ["over 120", "", "", "", ""]
    assert found[8, 16, "vlora"][0] == "failed"


@pytest.mark.slow  # drawing takes seconds
def test_the_picture_holds_something(tmp_path: Path) -> None:
    rows = [row("hydraopt", t, merge_wall=0.1 * t) for t in (4, 8)]
    rows += [row("peft svd", t, over=120) for t in (4, 8)]
    scaling_report.draw_cells(rows, tmp_path / "a" / "scaling.png")
    assert (tmp_path / "a" / "scaling.png").stat().st_size > 10_000


def test_first_tasks_of_many_are_those_of_few(tmp_path: Path) -> None:
    shapes = {"model.layers.0.mlp.up_proj": (24, 8), "model.layers.0.mlp.down_proj": (8, 24)}
    few = write_adapters(tmp_path / "few", shapes, tasks=2, rank=3, seed=0)
    many = write_adapters(tmp_path / "many", shapes, tasks=4, rank=3, seed=0)
    for one, other in zip(few, many, strict=False):
        name = "adapter_model.safetensors"
        assert (one / name).read_bytes() == (other / name).read_bytes()
    adapter = read_adapters(few)[0]
    assert {path: (x.m, x.n, x.r) for path, x in adapter.modules.items()} == {
        path: (m, n, 3) for path, (m, n) in shapes.items()
    }


def test_the_layers_of_an_8b_model() -> None:
    shapes = llama_layers(2)
    assert len(shapes) == 14
    # 218 million weights a layer.
    assert sum(m * n for m, n in shapes.values()) == 2 * 218_103_808


def test_a_table_is_of_one_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call goes on with what is missing, and not where other code made the rows."""
    asked: list[tuple[int, ...]] = []

    def rows_of(cell: Cell, folders: Any, tools: Any, args: Any) -> list[dict[str, Any]]:
        asked.append((cell.tasks, len(folders)))
        return [row("hydraopt", cell.tasks, 2, 64, merge_wall=1.0)]

    monkeypatch.setattr(scaling, "compile_code", lambda place: None)
    monkeypatch.setattr(scaling, "rows_of", rows_of)
    monkeypatch.setattr(scaling, "ROOT", tmp_path)
    monkeypatch.setattr(scaling, "versions_of", lambda names: {})
    out = tmp_path / "scaling.json"
    given = ["--tools", "hydraopt", "--ranks", "2", "--widths", "64", "--layers", "0"]
    given += ["--out", str(out), "--tasks"]
    monkeypatch.setattr(scaling, "package_hash", lambda: "this", raising=False)
    scaling.main([*given, "2"])
    scaling.main([*given, "2", "3"])
    assert asked == [(2, 2), (3, 3)]
    before = out.read_text()
    assert json.loads(before)["source"] == "this"
    monkeypatch.setattr(scaling, "package_hash", lambda: "another")
    with pytest.raises(SystemExit, match=r"scaling\.json"):
        scaling.main([*given, "2", "3", "4"])
    assert out.read_text() == before
