"""The commands for collections: what they do, print and refuse."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from hydraopt import merge, open_bundle
from hydraopt.bundle import split
from hydraopt.errors import UsageError
from hydraopt.files import INDEX_NAME
from hydraopt.merging import rename
from tests.conftest import write_adapter
from tests.merging.merge_cases import modules_of
from tests.raising import check_refused

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three adapters, and a bundle of the first two."""
    folder = tmp_path_factory.mktemp("collections")
    for seed, name in enumerate("abc"):
        write_adapter(folder / name, modules_of(seed))
    merge([folder / "a", folder / "b"], folder / "two.hydra.safetensors", error=0.1)
    return folder


@pytest.fixture
def two(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(folder / "two.hydra.safetensors", tmp_path / "two.hydra.safetensors"))


def document(result: Result, schema: str) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    value = json.loads(result.output)
    assert value.pop("schema") == schema
    return dict(value)


def test_a_collection_changes(run: Run, two: Path, folder: Path, tmp_path: Path) -> None:
    first = shutil.copy(two, tmp_path / "first")
    added = document(run("add", two, folder / "c", "--json"), "hydraopt.change/1")
    assert [task["name"] for task in added["added"]] == ["c"]  # type: ignore[attr-defined]
    assert added["size"] == two.stat().st_size
    table = run("inspect", two, "--list")
    assert table.exit_code == 0
    assert "3 tasks" in table.output
    listed = document(run("inspect", two, "--list", "--json"), "hydraopt.list/1")
    assert [bool(x["added"]) for x in listed["tasks"]] == [False, False, True]  # type: ignore[attr-defined]
    rename(two, "c", "d")
    assert run("remove", two, "a").exit_code == 0
    assert "a" not in open_bundle(two)
    replaced = run("add", two, f"b={folder / 'c'}", "--replace", "--max-error", "0.2")
    assert replaced.exit_code == 0
    said = document(run("inspect", first, two, "--json"), "hydraopt.difference/1")
    assert (said["added"], said["removed"]) == (["d"], ["a"])
    assert [row["name"] for row in said["changed"]] == ["b"]  # type: ignore[attr-defined]
    shown = run("inspect", first, two).output
    for text in ("added", "removed", "changed", "core    the same"):
        assert text in shown
    assert list(open_bundle(two)) == ["b", "d"]


def test_a_name_that_exists_points_to_the_option(run: Run, two: Path, folder: Path) -> None:
    before = two.read_bytes()
    done = run("add", two, f"b={folder / 'c'}")
    check_refused(done, UsageError, names="--replace", got="b")
    assert two.read_bytes() == before


def test_an_index_that_cannot_be_written_is_a_warning(
    run: Run, two: Path, folder: Path, tmp_path: Path
) -> None:
    split(two, tmp_path / "parts")
    (tmp_path / "parts" / INDEX_NAME).unlink()
    (tmp_path / "parts" / INDEX_NAME).mkdir()
    said = run("remove", tmp_path / "parts", "a")
    assert said.exit_code == 0
    assert said.stderr.startswith("warning: ")
    assert "warning" not in said.stdout
    said = run("add", tmp_path / "parts", folder / "c", "--json")
    assert said.exit_code == 0
    (warning,) = json.loads(said.stdout)["warnings"]
    assert warning["code"] == "old_index"
    assert said.stderr.splitlines() == [f"warning: {warning['text']}"]


def test_a_refresh_is_told_before_it_is_made(run: Run, two: Path, folder: Path) -> None:
    run("add", two, folder / "c")
    before = two.read_bytes()
    expected = document(run("refresh", two, "--json"), "hydraopt.refresh.expected/1")
    assert expected["added"] == 1
    assert run("refresh", two).exit_code == 0
    assert two.read_bytes() == before
    output = two.with_name("new.hydra.safetensors")
    made = run("refresh", two, *(folder / name for name in "abc"), "-o", output)
    assert made.exit_code == 0, made.output
    assert re.search(r"\b3\b", made.output)
    assert two.read_bytes() == before
    done = document(run("refresh", two, "--force", "--json"), "hydraopt.refresh/1")
    assert done["size"] == two.stat().st_size
    assert two.read_bytes() != before


def test_a_refresh_names_the_tasks_that_lose(run: Run, two: Path, folder: Path) -> None:
    run("add", two, folder / "c", "--max-error", "0.01")
    expected = document(run("refresh", two, "--json"), "hydraopt.refresh.expected/1")
    assert "c" not in {task["name"] for task in expected["grown"]}
    output = two.with_name("new.hydra.safetensors")
    made = run("refresh", two, "--error", "0.4", "-o", output, "--json")
    (task,) = (x for x in document(made, "hydraopt.refresh/1")["grown"] if x["name"] == "c")
    said = run("refresh", two, "--error", "0.4", "-o", output, "--force").output
    assert "errors that grow by more than a tenth: " in said
    assert f"c  {task['before']:.4f} -> {task['after']:.4f}" in said


def test_they_refuse(run: Run, two: Path, folder: Path) -> None:
    before = two.read_bytes()
    for arguments, facts in (
        (("add", two, folder / "a"), {"file": "two.hydra.safetensors", "got": "a"}),
        (("add", two), {"names": "ADAPTERS..."}),
        (
            ("add", two, folder / "c", "--size", "5%", "--max-error", "0.1"),
            {"got": "size, max-error"},
        ),
        (("add", two, folder / "c", "--harm", "1%"), {"names": "--harm"}),
        (("add", two, folder / "c", "--size", "60"), {"got": "--exact"}),
        (
            ("add", two, folder / "c", "--replace"),
            {"file": "two.hydra.safetensors", "got": "'c'", "expected": "a, b"},
        ),
        (("remove", two, "c"), {"file": "two.hydra.safetensors", "got": "'c'", "expected": "a, b"}),
        (("inspect", folder / "a" / "adapter_config.json", "--list"), {}),
        (("inspect", two, folder / "a"), {}),
        (("refresh", two, "--size", "5%"), {"names": "--size"}),
        (("refresh", two, "-o", two), {"file": "two.hydra.safetensors"}),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        check_refused(result, **facts)
    assert two.read_bytes() == before
