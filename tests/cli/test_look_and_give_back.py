"""``inspect``, ``verify`` and ``export``."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt import merge, open_bundle
from hydraopt.adapters import read_adapter
from hydraopt.bundle import TaskAdapter
from hydraopt.errors import BatchError, ExportError, UsageError
from hydraopt.export import formats
from tests.cli.conftest import TASKS, Run
from tests.conftest import MakeAdapter
from tests.raising import check_refused


def test_inspect_adapters(run: Run, adapters: Path) -> None:
    result = run("inspect", f"{adapters}/*")
    assert result.exit_code == 0, result.output
    for text in (*TASKS, "model.layers.*.self_attn.q_proj (3)", "cos A", "relative error"):
        assert text in result.stdout
    assert "layers.2.self_attn.q_proj" in run("inspect", f"{adapters}/*", "--modules").stdout


def test_inspect_adapters_json(run: Run, adapters: Path) -> None:
    report = json.loads(run("inspect", f"{adapters}/*", "--json").stdout)
    assert report["schema"] == "hydraopt.inspect.adapters/1"
    assert len(report["modules"]) == 6
    assert len(report["types"]) == 2


def test_inspect_bundle(run: Run, bundle: Path) -> None:
    result = run("inspect", bundle)
    assert result.exit_code == 0, result.output
    for text in (*TASKS, "model.layers.*.self_attn.q_proj (3)", f"{bundle.stat().st_size:,}"):
        assert text in result.stdout
    assert "layers.2.self_attn.q_proj" in run("inspect", bundle, "--modules").stdout
    report = json.loads(run("inspect", bundle, "--json").stdout)
    assert report["schema"] == "hydraopt.inspect.bundle/1"
    assert report["size"] == bundle.stat().st_size


def test_inspect_decides_by_content(run: Run, bundle: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "adapter_model.safetensors"
    renamed.write_bytes(bundle.read_bytes())
    report = json.loads(run("inspect", renamed, "--json").stdout)
    assert report["schema"] == "hydraopt.inspect.bundle/1"


def test_inspect_plots(run: Run, adapters: Path, tmp_path: Path) -> None:
    result = run("inspect", f"{adapters}/*", "--plot", tmp_path / "a.png", "--json")
    assert result.exit_code == 0, result.output
    json.loads(result.stdout)
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_inspect_refuses(run: Run, bundle: Path, adapters: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.hydra.safetensors"
    damaged.write_bytes(bundle.read_bytes()[:50])
    for arguments, facts in (
        ((bundle, adapters / "de"), {}),
        ((damaged,), {}),
        ((bundle, "--plot", tmp_path / "x.png"), {"names": "--plot"}),
        ((tmp_path / "no",), {"file": "no"}),
        ((adapters / "de", "--plot", tmp_path / "x.txt"), {"file": "x.txt"}),
    ):
        result = run("inspect", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        check_refused(result, **facts)


def test_verify(run: Run, bundle: Path, adapters: Path) -> None:
    result = run("verify", bundle)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "no problems found")
    report = json.loads(run("verify", bundle, f"{adapters}/*", "--json").stdout)
    assert report["schema"] == "hydraopt.verify/1"
    assert report["ok"]
    assert all(task["measured"] for task in report["tasks"])


def test_verify_finds_what_is_wrong(run: Run, bundle: Path, adapters: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.hydra.safetensors"
    data = bytearray(bundle.read_bytes())
    data[-20] ^= 1
    damaged.write_bytes(data)
    result = run("verify", damaged)
    assert result.exit_code == 1
    assert "problem:" in result.stdout
    result = run("verify", bundle, adapters / "de", "--json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["problems"]) == 2
    assert "2 problems" in run("verify", bundle, adapters / "de").stdout
    assert run("verify", bundle, tmp_path / "nowhere").exit_code == 2


def test_export_one_task_is_the_folder(run: Run, bundle: Path, tmp_path: Path) -> None:
    result = run("export", bundle, "de", "-o", tmp_path / "mine", "--dtype", "float16")
    assert (result.exit_code, result.stdout) == (0, f"de -> {tmp_path / 'mine'}\n")
    adapter = read_adapter(tmp_path / "mine")
    assert len(adapter.modules) == 6
    assert {module.a.dtype for module in adapter.modules.values()} == {"F16"}
    assert list(adapter.extras) == ["base_model.model.score.weight"]


@pytest.mark.parametrize("chosen", [["fr", "de", "fr"], ["--all"]])
def test_export_of_several_makes_folders(
    run: Run, bundle: Path, tmp_path: Path, chosen: list[str]
) -> None:
    result = run("export", bundle, *chosen, "-o", tmp_path / "out", "--uniform-rank", "--json")
    report = json.loads(result.stdout)
    assert report["schema"] == "hydraopt.export/1"
    names = list(TASKS) if chosen == ["--all"] else ["fr", "de"]
    assert [row["task"] for row in report["written"]] == names
    for row in report["written"]:
        adapter = read_adapter(row["folder"])
        assert len({module.r for module in adapter.modules.values()}) == 1


def test_export_refuses(run: Run, bundle: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    out = tmp_path / "out"
    for arguments, facts in (
        ((bundle, "-o", out), {"names": "--all"}),
        ((bundle, "de", "--all", "-o", out), {"names": "--all"}),
        ((bundle, "de", "xx", "-o", out), {"file": "three.hydra.safetensors", "got": "'xx'"}),
        ((bundle, "de", "-o", out, "--dtype", "int3"), {"got": "'int3'", "expected": "float16"}),
        ((bundle, "de", "-o", taken), {"file": "taken"}),
        ((tmp_path / "no", "de", "-o", out), {"file": "no"}),
    ):
        result = run("export", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        check_refused(result, **facts)
    assert not out.exists()
    assert run("export", bundle, "de", "-o", taken, "--force").exit_code == 0
    assert (taken / "notes.txt").read_text() == "mine"


def test_export_of_several_stops_before_the_first_if_one_is_in_the_way(
    run: Run, bundle: Path, tmp_path: Path
) -> None:
    names = list(open_bundle(bundle))
    out = tmp_path / "out"
    assert run("export", bundle, names[-1], "-o", out / names[-1]).exit_code == 0
    before = {x: x.read_bytes() for x in out.rglob("*") if x.is_file()}
    result = run("export", bundle, "--all", "-o", out)
    assert (result.exit_code, result.stdout) == (2, "")
    check_refused(result, UsageError, file="fr")
    assert {x: x.read_bytes() for x in out.rglob("*") if x.is_file()} == before
    assert run("export", bundle, "--all", "-o", out, "--force").exit_code == 0
    assert sorted(x.name for x in out.iterdir()) == sorted(names)


@pytest.mark.parametrize(("file_format", "refused"), [("peft", False), ("vllm", True)])
def test_export_of_several_frees_each_task_before_the_next(
    run: Run,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file_format: str,
    refused: bool,
) -> None:
    real, before = formats.export_task, list[weakref.ref[TaskAdapter]]()

    def watched(task: TaskAdapter, *given: Any, **options: Any) -> None:
        assert not any(x() for x in before)
        before.append(weakref.ref(task))
        real(task, *given, **options)

    monkeypatch.setattr("hydraopt.export.export_task", watched)
    how = "--all", "-o", tmp_path / "out", "--format", file_format
    assert (run("export", bundle, *how).exit_code != 0) is refused
    assert len(before) == len(TASKS)


def test_tasks_that_a_format_cannot_hold_leave_the_others_written(
    run: Run, adapters: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    pairs = {f"model.layers.{i}.self_attn.q_proj": (np.eye(48, 4), np.eye(4, 40)) for i in range(3)}
    plain = make_adapter(tmp_path / "plain", pairs)
    bundle, out = tmp_path / "some.hydra.safetensors", tmp_path / "out"
    merge([adapters / "de", adapters / "fr", plain], bundle, error=0.1)
    result = run("export", bundle, "--all", "-o", out, "--format", "vllm")
    assert [x.name for x in out.iterdir()] == ["plain"]
    for name in ("de", "fr"):
        check_refused(result, BatchError, names=name)
    check_refused(
        run("export", bundle, "de", "-o", tmp_path / "de", "--format", "vllm"), ExportError
    )
