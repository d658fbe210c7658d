"""``merge`` and ``shrink``: what they make, print and refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hydraopt.bundle import open_bundle
from hydraopt.cli.main import command_named
from hydraopt.errors import UsageError
from hydraopt.merging.options import DEFAULT_MAX_ERROR
from tests.cli.conftest import TASKS, Run
from tests.raising import check_refused

RESULT_KEYS = {
    "schema",
    "path",
    "size",
    "fp16_bytes",
    "fraction",
    "errors",
    "forms",
    "measure",
    "price",
    "passes",
    "seconds",
    "harms",
    "notes",
    "estimated",
    "tasks",
}
ROW_KEYS = {
    "name",
    "error",
    "own_bytes",
    "carried_bytes",
    "fp16_bytes",
    "original_bytes",
    "modules",
    "lossless",
    "format",
    "shared_with",
    "notes",
    "tensors",
    "tensor_error",
    "harm",
    "start",
}


def test_merge_json(run: Run, adapters: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.hydra.safetensors"
    arguments = ("--size", "30%", "-o", output, "--json", "--workers", 1)
    result = run("merge", adapters / "de", adapters / "fr", *arguments)
    report = json.loads(result.stdout)
    assert set(report) == RESULT_KEYS
    assert report["schema"] == "hydraopt.merge/1"
    assert report["estimated"] is False
    assert report["size"] == output.stat().st_size <= 0.3 * report["fp16_bytes"]
    assert [row["name"] for row in report["tasks"]] == ["de", "fr"]
    assert all(set(row) == ROW_KEYS for row in report["tasks"])


def test_options_reach_the_library(run: Run, adapters: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.hydra.safetensors"
    names = (f"one={adapters / 'de'}", adapters / "fr")
    base = ("merge", *names, "--size", "30%", "-o", output, "--json", "--workers", 1)
    plain = json.loads(run(*base).stdout)
    result = run(*base, "--weight", "one=50")
    weighted = json.loads(result.stdout)
    assert weighted["errors"]["one"] < plain["errors"]["one"]
    assert run(*base, "--fair").exit_code == 0
    assert open_bundle(output).recipe["fair"] is True


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--size", "5%", "--error", "0.2"], {"got": "size, error"}),
        (["--size", "5 apples"], {}),
        (["--size", "0.05"], {}),
        (["--size", "300"], {"got": "--exact"}),
        (["--error", "2"], {"got": "2.0"}),
        (["--weight", "xx=2"], {"got": "xx"}),
        (["--weight", "de=-1"], {"got": "de=-1.0", "expected": "a number"}),
        (["--weight", "de"], {"names": "--weight"}),
        (["--weight", "=2"], {"names": "--weight"}),
        (["--weight", "de=much"], {"names": "--weight"}),
        (["--weight", "de=1", "--weight", "de=2"], {"names": "--weight"}),
        (["--workers", "0"], {"names": "--workers"}),
    ],
)
def test_refusals(
    run: Run, adapters: Path, tmp_path: Path, arguments: list[str], facts: dict[str, Any]
) -> None:
    output = tmp_path / "out.hydra.safetensors"
    result = run("merge", f"{adapters}/*", *arguments, "-o", output)
    assert (result.exit_code, result.stdout) == (2, "")
    check_refused(result, **facts)
    assert not output.exists()


@pytest.mark.parametrize("verb", ["merge", "shrink"])
def test_a_missing_input_is_refused(run: Run, tmp_path: Path, verb: str) -> None:
    result = run(verb, tmp_path / "nowhere", "--size", "5%", "-o", tmp_path / "x")
    assert result.exit_code == 2
    check_refused(result, file="nowhere")


def test_a_bundle_is_replaced_and_anything_else_is_not(
    run: Run, adapters: Path, bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.safetensors"
    arguments = ("merge", f"{adapters}/*", "--size", "40%", "-o", output, "--workers", 1)
    output.write_bytes(bundle.read_bytes())
    assert run(*arguments).exit_code == 0
    assert output.read_bytes() != bundle.read_bytes()
    adapter = (adapters / "de" / "adapter_model.safetensors").read_bytes()
    output.write_bytes(adapter)
    result = run(*arguments)
    assert result.exit_code == 2
    check_refused(result, UsageError, file="out.safetensors")
    assert output.read_bytes() == adapter
    assert run(*arguments, "--force").exit_code == 0
    assert len(open_bundle(output)) == 3


@pytest.mark.parametrize(("target", "facts"), [("", {}), ("no/where/out", {"file": "where"})])
def test_an_impossible_target(
    run: Run, adapters: Path, tmp_path: Path, target: str, facts: dict[str, Any]
) -> None:
    result = run("merge", f"{adapters}/*", "-o", tmp_path / target)
    assert result.exit_code == 2
    check_refused(result, UsageError, **facts)


def test_shrink(run: Run, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "small.hydra.safetensors"
    arguments = ("--size", "25%", "-o", output, "--workers", 1)
    result = run("shrink", bundle, *arguments, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert set(report) == RESULT_KEYS
    assert report["schema"] == "hydraopt.shrink/1"
    assert report["estimated"] is True
    assert report["size"] == output.stat().st_size <= 0.25 * report["fp16_bytes"]
    table = run("shrink", bundle, *arguments)
    for shown in (table, run("inspect", output)):
        assert "error, estimated" in " ".join(shown.stdout.split())
    assert "estimated" not in run("inspect", bundle).stdout


def test_what_shrink_estimates_is_no_problem(run: Run, bundle, adapters, tmp_path: Path) -> None:
    output = tmp_path / "small.hydra.safetensors"
    for file in (bundle, output):
        again = run("shrink", file, "--error", "0.6", "-o", tmp_path / "next", "--workers", 1)
        assert again.exit_code == 0, again.output
        (tmp_path / "next").replace(output)
    near = run("verify", output, *(adapters / name for name in TASKS), "--json")
    assert near.exit_code == 0, near.output
    assert "errors_estimated" in [note["code"] for note in json.loads(near.stdout)["notes"]]
    names = [*TASKS[1:], TASKS[0]]
    others = (f"{mine}={adapters / other}" for mine, other in zip(TASKS, names, strict=True))
    far = run("verify", output, *others)
    assert far.exit_code == 1


def test_help_states_the_default_limit() -> None:
    stated = re.findall(r"--max-error (\d\.\d+)", str(command_named("merge").help))
    assert set(map(float, stated)) == {DEFAULT_MAX_ERROR}


def test_shrink_refuses(run: Run, bundle: Path, adapters: Path, tmp_path: Path) -> None:
    output = tmp_path / "small.hydra.safetensors"
    for arguments, facts in (
        ((bundle, "-o", output), {}),
        (
            (bundle, "-o", output, "--size", "90%"),
            {"file": "three.hydra.safetensors", "expected": f"{bundle.stat().st_size:,} bytes"},
        ),
        ((bundle, "-o", bundle, "--size", "20%"), {"file": "three.hydra.safetensors"}),
        (
            (adapters / "de", "-o", output, "--size", "20%"),
            {"file": "de", "expected": "NAME.core.safetensors"},
        ),
    ):
        result = run("shrink", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        check_refused(result, **facts)
    assert not output.exists()
