"""Bundles of more modules than anybody reads: short tables, whole JSON, bounded work."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from click.testing import CliRunner

from hydraopt.bundle import Manifest, ModuleEntry, TaskEntry, pack_bundle, verify_bundle
from hydraopt.cli.main import cli
from hydraopt.cli.terminal import emit_json, show_table
from hydraopt.codec import ChunkWriter, write_record
from hydraopt.files import to_json
from hydraopt.inspect import inspect_bundle
from hydraopt.report import build
from hydraopt.report.page import render
from tests.bundle.bundles import tiny
from tests.limited import run_limited

ROWS = 1200
"""Lines of a table that people are shown, at most, with all that stands around it."""
CONFIG = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": "all-linear"}


def word(number: int) -> str:
    """Without digits, so that each module is of a type of its own."""
    return "".join(chr(ord("a") + int(x)) for x in f"{number:06}")


def many_modules(path: Path, count: int) -> Path:
    """Modules of no bytes, all of which two tasks of one stream have."""
    modules = tuple(ModuleEntry(f"m{word(i)}", "linear", 1, 1) for i in range(count))
    writer = ChunkWriter()
    for _ in modules:
        write_record(writer, None, False)
        writer.end_record(0)
    errors = (0.0,) * count
    tasks = tuple(TaskEntry(x, 0, 0, modules=tuple(range(count)), errors=errors) for x in "ab")
    pack_bundle(Manifest(modules, tasks, configs=(CONFIG,)), b"", [writer.finish()], []).write(path)
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_modules(tmp_path_factory.mktemp("many") / "b.hydra.safetensors", 5000)


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_modules(tmp_path_factory.mktemp("some") / "b.hydra.safetensors", 1500)


@pytest.mark.slow
@pytest.mark.parametrize("every", [False, True])
def test_a_table_shows_the_first_rows_and_counts_the_others(some: Path, every: bool) -> None:
    result = CliRunner().invoke(cli, ["inspect", str(some), *["--modules"] * every])
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) < ROWS
    assert re.search(r"^500 ", result.output, re.MULTILINE)
    assert f"m{word(0)}" in result.output


def test_json_has_all_rows(some: Path) -> None:
    result = CliRunner().invoke(cli, ["inspect", str(some), "--json"])
    said = json.loads(result.stdout)
    assert len(said["modules"]) == len(said["types"]) == 1500
    assert [len(x["details"]) for x in said["tasks"]] == [1500, 1500]
    assert {sum(x["forms"].values()) for x in said["types"]} == {2}


def test_a_page_has_room_for_some(many: Path) -> None:
    """Tasks of more modules than bytes of real bundles hold are not compared."""
    page = build(many)
    assert len(page.map.columns) <= 160
    assert {x.kind for x in page.sizes} == {"chosen"}
    assert page.alike is None


def look(path: Path) -> None:
    """As the commands do, which take no limit as low as this one."""
    report = inspect_bundle(path)
    with redirect_stdout(io.StringIO()):
        document = to_json(report)
        emit_json(document)
        rows = [list(x.values()) for x in document["modules"]]
        show_table("modules", list(document["modules"][0]), rows)
    assert verify_bundle(path).ok
    render(build(path))


@pytest.mark.slow
def test_the_work_is_bounded_by_the_bytes(tmp_path: Path) -> None:
    """Inspecting and verifying a file, and a page of it, within three times what one may take."""
    path = many_modules(tmp_path / "many", 40_000)
    tiny(("de",)).write(tmp_path / "sound")
    size = path.stat().st_size
    megabytes, seconds = 128 + (4096 * size >> 20), 3 * (10 + 30 * size // 1_000_000)
    assert run_limited(look, tmp_path / "sound", path, megabytes, seconds) == "done"
